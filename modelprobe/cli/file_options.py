"""The options of the commands for weight files: `keys`, `repair`, `convert`, `diff`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.checkpoint.file_names import SAVE_FORMATS, SAVE_SUFFIXES
from modelprobe.cli.options import MODEL, OUTPUT, RARE, TARGET, SetOpt, one_of, option
from modelprobe.cli.output import complete_format, known_format
from modelprobe.report.formats import RENDERERS

if TYPE_CHECKING:
    from modelprobe.model.weights.request import RepairOptions

WEIGHTS = "Weights"

WeightsArg = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A weight file, the index of its shards, or a checkpoint directory.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
WeightsOutputOpt = Annotated[
    Path | None,
    option(
        "--output",
        "-o",
        metavar="OUT",
        panel=OUTPUT,
        help=f"The weight file to write. Its suffix chooses the format: {' '.join(SAVE_SUFFIXES)}.",
    ),
]
ToOpt = Annotated[
    str | None,
    option(
        "--to",
        metavar="|".join(SAVE_FORMATS),
        callback=one_of("--to", (None, *SAVE_FORMATS)),
        panel=OUTPUT,
        help="The format of the new file. Default: by the suffix of -o.",
    ),
]
OverwriteOpt = Annotated[
    bool, option("--force", panel=OUTPUT, help="Replace OUT, if it exists. The input is never replaced.")
]
StdoutFormatOpt = Annotated[
    str | None,
    option(
        "--format",
        "-f",
        metavar="|".join(RENDERERS),
        callback=known_format,
        autocompletion=complete_format,
        panel=OUTPUT,
        help="How to write the report to stdout. Default: terminal.",
    ),
]
BranchOpt = Annotated[
    str | None,
    option(
        "--branch",
        metavar="NAME",
        panel=WEIGHTS,
        help="Which part of the file to take, by its dotted name: state_dict_ema; . is the root. Default: the model.",
    ),
]
WantedOpt = Annotated[
    str | None,
    option(
        "--arch",
        metavar="TARGET|FILE",
        panel=MODEL,
        help="The network that the weights are for (resnet50, timm:NAME, net.py:Net), or a file with the right names.",
    ),
]
OriginOpt = Annotated[
    str | None,
    option(
        "--from",
        metavar="TARGET",
        panel=MODEL,
        help="The network that the file was saved from, where its names are others: outputs are compared.",
    ),
]
DropOpt = Annotated[
    list[str] | None,
    option(
        "--drop",
        metavar="PATTERN",
        panel=WEIGHTS,
        help="Leave these tensors out, and do not expect them: 'fc.*'. Repeatable.",
    ),
]
DropHeadOpt = Annotated[bool, option("--drop-head", panel=WEIGHTS, help="Leave out a last layer with other classes.")]
PrefixOpt = Annotated[
    str,
    option(
        "--prefix",
        metavar="NAME",
        panel=WEIGHTS,
        help="Take only the tensors under this prefix, and strip it: encoder_q.",
    ),
]
ProofInputOpt = Annotated[
    list[str] | None,
    option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        panel=RARE,
        help="What both networks are run on to compare outputs: 224, 2x16x512. Default: what the model declares.",
    ),
]
GridOpt = Annotated[
    str | None,
    option(
        "--grid", metavar="ROWSxCOLUMNS", panel=RARE, help="The grid of the file's position embedding. Default: square."
    ),
]
UnprovenOpt = Annotated[
    bool, option("--unproven", panel=RARE, help="Accept an assignment of tensors that rests on their order alone.")
]
AllTensorsOpt = Annotated[bool, option("--all", panel=OUTPUT, help="List every tensor by itself.")]


@dataclass(frozen=True, kw_only=True)
class RepairPlanOptions:
    """Which file is to fit what, and how much may be changed or assumed."""

    file: WeightsArg
    arch: WantedOpt = None
    settings: SetOpt = None
    origin: OriginOpt = None
    branch: BranchOpt = None
    prefix: PrefixOpt = ""
    drop: DropOpt = None
    drop_head: DropHeadOpt = False
    inputs: ProofInputOpt = None
    grid: GridOpt = None
    unproven: UnprovenOpt = False

    def request(self, dtype: str | None = None) -> RepairOptions:
        """What these options ask for."""
        from modelprobe.model.weights.request import RepairOptions

        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= {name: tuple(given[name] or ()) for name in ("settings", "drop", "inputs")}
        return RepairOptions(**given, dtype=dtype)
