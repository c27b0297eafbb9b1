"""`modelprobe health`: what is wrong with a weight file."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.cli.options import OUTPUT, TARGET, ReportOptions, option
from modelprobe.errors import BadInput, CheckFailed

EXAMPLES = (
    "modelprobe health samples/digit_vit.pth",
    "modelprobe health samples/digit_cnn.pth --layers",
)

HealthArg = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A weight file, the index of its shards, or a checkpoint directory.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
HealthBranchOpt = Annotated[
    str | None,
    option("--branch", metavar="NAME", panel=TARGET, help="Which part of the file is looked at: state_dict_ema."),
]
AllLayersOpt = Annotated[
    bool, option("--layers", panel=OUTPUT, help="Also every layer: its size, and the initializer that it fits.")
]


def command(
    target: HealthArg,
    *,
    branch: HealthBranchOpt = None,
    layers: AllLayersOpt = False,
    report: ReportOptions,
) -> None:
    """What a weight file says of its training: layers never trained, dead units, steps too large, values not finite.

    Exit code 1 when anything was found. Every value is read once; files of any size fit.
    """
    report.check()
    if not names_weights(target):
        raise BadInput(f"{target} is not a weight file", "for example modelprobe health model.pth")
    from modelprobe.environment import brief
    from modelprobe.inside.health.file_health import check_file_health

    found = check_file_health(target, branch, layers)
    report.emit(replace(found.report(), env=brief()))
    if found.findings:
        raise CheckFailed(f"{target}: {found.findings[0].text}", "the report tells all that was found")
