"""`modelprobe diff`: how two weight files differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelprobe import console
from modelprobe.cli import options, output
from modelprobe.errors import BadInput, CheckFailed

FirstArg = Annotated[
    str, typer.Argument(metavar="A", help="A weight file, shard index or checkpoint directory.", show_default=False)
]
SecondArg = Annotated[str, typer.Argument(metavar="B", help="What to compare it with.", show_default=False)]
BranchOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--branch",
        metavar="KEY",
        help="Which part of the files to compare, such as state_dict_ema. Given twice: of A, then of B.",
        show_default=False,
    ),
]
ToleranceOpt = Annotated[
    float,
    typer.Option(
        "--tolerance",
        metavar="T",
        min=0.0,
        help="Values a and b count as equal when |a - b| <= T * max(1, |a|, |b|).",
    ),
]


def command(
    a: FirstArg,
    b: SecondArg,
    branch: BranchOpt = None,
    tolerance: ToleranceOpt = 0.0,
    top: options.TopOpt = None,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """Tensors added, removed, renamed, reshaped or changed in value between two weight files; other entries too.

    Exit code 1 when any tensor differs. Reads one piece of a tensor at a time: files of any size fit.
    """
    output.check(format, out, force=force)
    if branch is not None and len(branch) > 2:
        raise BadInput(f"--branch was given {len(branch)} times", "once for both files, or once for each")
    if out is not None and any(Path(side).exists() and out.exists() and out.samefile(side) for side in (a, b)):
        raise BadInput(f"{out} is one of the files to compare", "choose another name for the report")
    from modelprobe.checkpoint.answers.diff import diff_weights
    from modelprobe.environment import brief

    with console.working(f"comparing {a} and {b}"):
        result = diff_weights(a, b, branches=branch or (), tolerance=tolerance, top=top)
    output.emit(replace(result.report(), env=brief()), format, out, force=force, strict=strict)
    if result.differ:
        raise CheckFailed(f"{a} and {b} differ", "the report says where; --tolerance allows for small differences")
