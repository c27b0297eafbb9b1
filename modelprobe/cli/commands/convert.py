"""`modelprobe convert`: a checkpoint in another format, in one file or in shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelprobe import console
from modelprobe.cli import options, output
from modelprobe.report.formats import RENDERERS

FileArg = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="A weight file, the index of its shards, or a checkpoint directory (distributed, DeepSpeed ZeRO).",
        show_default=False,
    ),
]
OutOpt = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The new weight file. Its suffix says the format: .safetensors, or .pt, .pth, .bin, .ckpt.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]
BranchOpt = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="KEY",
        help="Which part of the file to take, such as state_dict_ema; . is the root. Left out: the model.",
        show_default=False,
    ),
]
WeightsFormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="safetensors|pt",
        help="The format, where the suffix does not say it.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]
ShardOpt = Annotated[
    str | None,
    typer.Option(
        "--shard-size",
        metavar="SIZE",
        help="Cut into files of at most SIZE (2GB, 500MB, 2GiB) beside an index, as on the Hugging Face Hub.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]
ForceOpt = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar=options.FLAG,
        help="Replace OUT, if it exists. The input is never replaced.",
        rich_help_panel=options.OUTPUT,
    ),
]


ReportOpt = Annotated[
    str | None,
    typer.Option(
        "--report",
        "-f",
        metavar="|".join(RENDERERS),
        help="How to write the report to stdout. Left out: for a terminal.",
        show_default=False,
        callback=options.known_format,
        rich_help_panel=options.OUTPUT,
    ),
]


def command(
    file: FileArg,
    out: OutOpt,
    branch: BranchOpt = None,
    format: WeightsFormatOpt = None,
    shard_size: ShardOpt = None,
    force: ForceOpt = False,
    report: ReportOpt = None,
) -> None:
    """Write a checkpoint as safetensors or torch file, in one piece or in shards; says what was left behind."""
    from modelprobe.checkpoint.answers.convert import convert_weights
    from modelprobe.checkpoint.write.convert import format_of, parse_byte_size
    from modelprobe.environment import brief
    from modelprobe.files.atomic import check_target

    format_of(out, format)
    size = parse_byte_size(shard_size) if shard_size is not None else None
    if size is None:
        check_target(out, force=force, sources=[Path(file)], links=False)
    with console.working(f"converting {file}"):
        result = convert_weights(file, out, format=format, branch=branch, shard_size=size, force=force)
    output.emit(replace(result.report(), env=brief()), report)
