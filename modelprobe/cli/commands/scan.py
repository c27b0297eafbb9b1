"""`modelprobe scan`: the code that loading a weight file, or any file of a directory, could execute."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from modelprobe.cli.options import TARGET, ReportOptions
from modelprobe.errors import CheckFailed

EXAMPLES = (
    "modelprobe scan samples/digit_cnn.pth",
    "modelprobe scan samples",
)

PathArg = Annotated[
    str,
    typer.Argument(
        metavar="FILE|DIR",
        help="A weight file, or a directory of them.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


def command(path: PathArg, *, report: ReportOptions) -> None:
    """Every name that a pickle would import, dangerous ones first; nested pickles; code in archives. Runs nothing.

    Exit code 1 when a name is known to be dangerous. A part that could not be read is listed, and is never "clean".
    """
    report.check()
    from modelprobe.checkpoint.answers.scan import scan
    from modelprobe.environment import brief

    result = scan(path)
    report.emit(replace(result.report(), env=brief()))
    if result.dangerous:
        raise CheckFailed(f"loading {path} would execute dangerous code", "do not load it; the report names the code")
