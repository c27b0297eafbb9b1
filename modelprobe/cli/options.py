"""Which options do commands share? One `Annotated` type each, so that a word means the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from modelprobe.report.formats import RENDERERS

TARGET, MODEL, INPUT, OUTPUT = "Target", "Model", "Input", "Output"
"""The panels of `--help`."""

FLAG = ""
"""The metavar of a switch, which takes no value: newer Typers write `<bool>` there otherwise."""


def _complete_format(incomplete: str) -> list[str]:
    return [name for name in RENDERERS if name.startswith(incomplete)]


def known_format(value: Optional[str]) -> Optional[str]:  # noqa: UP045 - Typer reads it at run time
    """The callback of every option that names a report format: refuses an unknown one before anything is done."""
    from modelprobe.cli.output import choose

    return choose(value, None).name if value is not None else None


TargetArg = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What to look at: resnet50, timm:vit_base_patch16_224, net.py:Net, package.module:factory, "
        "or a weight file. A plain name is torchvision's if it has it, else timm's.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]

SetOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An argument for the model's constructor, such as --set num_classes=10. May be given again.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

ArchOpt = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="The network that a weight file belongs to: resnet50, timm:NAME, net.py:Net. It is built, and the report "
        "says whether the file fits.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

UnsafeLoadOpt = Annotated[
    bool,
    typer.Option(
        "--unsafe-load",
        metavar=FLAG,
        help="Unpickle a whole model the ordinary way, which runs any code that the file names. For files you trust.",
        rich_help_panel=MODEL,
    ),
]

InputOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="An input of forward: 224 (a square image), 3x224x224, 8x3x224x224, ids=1x128:int64. Give it once for "
        "each input, in order. Left out: what the model declares, and the report says so.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

BatchOpt = Annotated[
    int | None,
    typer.Option(
        "--batch",
        "-b",
        metavar="N",
        min=1,
        help="How many examples in the batch. Left out: one.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

InputsFromOpt = Annotated[
    str | None,
    typer.Option(
        "--inputs-from",
        metavar="FILE.py:FUNCTION",
        help="A function of yours that returns the inputs (a tuple, or a dict for keywords). It is run.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to run: cpu, cuda, cuda:1, mps, or meta (no weights in memory, "
        "nothing computed). Left out: meta, where that is enough.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

DtypeOpt = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="The floating-point type of weights and inputs: float16, bfloat16, float32, float64. "
        "Left out: the model's own.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

DepthOpt = Annotated[
    int | None,
    typer.Option(
        "--depth",
        "-d",
        metavar="N",
        min=0,
        help="How many levels of modules to show; 0 shows the model alone. What is below is added up, not left out.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]

TopOpt = Annotated[
    int | None,
    typer.Option(
        "--top",
        "-n",
        metavar="N",
        min=1,
        help="Show the N largest rows only.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]

FormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="|".join(RENDERERS),
        help="How to write the report. Left out: as the suffix of -o says, else for a terminal.",
        show_default=False,
        callback=known_format,
        autocompletion=_complete_format,
        rich_help_panel=OUTPUT,
    ),
]

OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the report to a file. Its suffix chooses the format: "
        f"{' '.join(renderer.suffixes[0] for renderer in RENDERERS.values())}.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]

ForceOpt = Annotated[
    bool,
    typer.Option("--force", metavar=FLAG, help="Replace the file that -o names, if it exists.", rich_help_panel=OUTPUT),
]

StrictOpt = Annotated[
    bool,
    typer.Option(
        "--strict",
        metavar=FLAG,
        help="Exit with code 3 when anything was assumed, not counted or left out.",
        rich_help_panel=OUTPUT,
    ),
]
