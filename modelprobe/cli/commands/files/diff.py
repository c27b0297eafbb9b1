"""`modelprobe diff`: how two weight files differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelprobe import console
from modelprobe.cli.file_options import WEIGHTS
from modelprobe.cli.options import TARGET, ReportOptions, TopOpt, option
from modelprobe.errors import BadInput, Differs

EXAMPLES = (
    "modelprobe diff samples/digit_cnn.pth samples/digit_vit.pth",
    "modelprobe diff samples/digit_cnn.pth samples/digit_cnn.pth --tolerance 1e-6",
)

FirstArg = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="A weight file, the index of its shards, or a checkpoint directory.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
SecondArg = Annotated[
    str, typer.Argument(metavar="B", help="What to compare it with.", show_default=False, rich_help_panel=TARGET)
]
BranchesOpt = Annotated[
    list[str] | None,
    option(
        "--branch",
        metavar="NAME",
        panel=WEIGHTS,
        help="Which part of the files to compare: state_dict_ema. Given twice: of A, then of B. Default: the model.",
    ),
]
ToleranceOpt = Annotated[
    float,
    option(
        "--tolerance",
        metavar="T",
        min=0.0,
        panel=WEIGHTS,
        help="Values a and b count as equal when |a - b| <= T * max(1, |a|, |b|).",
    ),
]


def command(
    a: FirstArg,
    b: SecondArg,
    *,
    branch: BranchesOpt = None,
    tolerance: ToleranceOpt = 0.0,
    top: TopOpt = None,
    report: ReportOptions,
) -> None:
    """Tensors added, removed, renamed, reshaped or changed in value between two weight files; other entries too.

    Exit code 1 when any tensor differs. Files of any size fit: a piece of a tensor is in memory at a time.
    """
    report.check()
    out = report.output
    if branch is not None and len(branch) > 2:
        raise BadInput(f"--branch was given {len(branch)} times", "once for both files, or once for each")
    if out is not None and any(Path(side).exists() and out.exists() and out.samefile(side) for side in (a, b)):
        raise BadInput(f"{out} is one of the files to compare", "choose another name for the report")
    from modelprobe.checkpoint.answers.diff import diff_weights
    from modelprobe.environment import brief

    with console.working(f"comparing {a} and {b}"):
        result = diff_weights(a, b, branches=branch or (), tolerance=tolerance, top=top)
    report.emit(replace(result.report(), env=brief()))
    if result.differ:
        raise Differs(f"{a} and {b} differ; --tolerance allows for small differences")
