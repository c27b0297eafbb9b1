"""`modelprobe scan`: what loading a file, or every file of a directory, could run."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from modelprobe.cli import options, output
from modelprobe.errors import CheckFailed

PathArg = Annotated[
    str, typer.Argument(metavar="FILE|DIR", help="A weight file, or a directory of them.", show_default=False)
]


def command(
    path: PathArg,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """Every name that a pickle would import, by danger; nested pickles; code in archives. Runs nothing.

    Exit code 1 when a name is known to do harm. What could not be read is said, and never counts as clean.
    """
    output.check(format, out, force=force)
    from modelprobe.checkpoint.answers.scan import scan
    from modelprobe.environment import brief

    result = scan(path)
    output.emit(replace(result.report(), env=brief()), format, out, force=force, strict=strict)
    if result.dangerous:
        raise CheckFailed(f"{path} would run dangerous code if it were loaded", "do not load it; the report names it")
