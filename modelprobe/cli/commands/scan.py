"""`modelprobe scan`: the code that loading a weight file, or any file of a directory, could execute."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from modelprobe.cli.options import OUTPUT, TARGET, ReportOptions, one_of, option
from modelprobe.errors import CheckFailed

EXAMPLES = (
    "modelprobe scan samples/digit_cnn.pth",
    "modelprobe scan samples",
)

FAIL_ON = ("dangerous", "suspicious", "unknown")

PathsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|DIR",
        help="Weight files, and directories of them.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


FailOnOpt = Annotated[
    str,
    option(
        "--fail-on",
        metavar="dangerous|suspicious|unknown",
        callback=one_of("--fail-on", FAIL_ON),
        panel=OUTPUT,
        help="The verdict from which on the exit code is 1. Unknown are classes of other packages, and what was not "
        "read.",
    ),
]


def command(paths: PathsArg, *, fail_on: FailOnOpt = "suspicious", report: ReportOptions) -> None:
    """What loading a file could run: every name that a pickle imports, judged by what it reaches. Runs nothing.

    Compressed files, archives, texts in base64 and pickles in pickles are opened. What could not be read is listed, and
    is never "clean". Exit code 1 when something is suspicious or dangerous.
    """
    report.check()
    from modelprobe.checkpoint.answers.scan import FROM_HARMLESS, scan
    from modelprobe.checkpoint.pickle.globals import Trust
    from modelprobe.environment import brief

    result = scan(*paths)
    report.emit(replace(result.report(), env=brief()))
    if FROM_HARMLESS.index(result.worst) < FROM_HARMLESS.index(Trust(fail_on)):
        return
    shown = paths[0] if len(paths) == 1 else f"{len(paths)} paths"
    if result.worst is Trust.DANGEROUS:
        raise CheckFailed(f"loading {shown} would execute dangerous code", "do not load it; the report names the code")
    if result.worst is Trust.SUSPICIOUS:
        raise CheckFailed(
            f"{shown} holds what no weight file needs, or what was not read",
            "the report says what; --fail-on dangerous lets it pass",
        )
    raise CheckFailed(
        f"not everything in {shown} is known to be harmless", "the report says what; --fail-on suspicious lets it pass"
    )
