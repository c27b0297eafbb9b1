"""`modelprobe scan`: the code that loading a weight file, or any file of a directory, could execute."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from modelprobe.cli.options import OUTPUT, TARGET, ReportOptions, one_of, option
from modelprobe.cli.output import known_format
from modelprobe.errors import CheckFailed

if TYPE_CHECKING:
    from modelprobe.checkpoint.answers.scan import ScanResult

EXAMPLES = (
    "modelprobe scan samples/digit_cnn.pth",
    "modelprobe scan samples",
    "modelprobe scan samples -f sarif -o scan.sarif",
)

DOCUMENTS = ("sarif", "cyclonedx", "policy")
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


PolicyOpt = Annotated[
    Path | None,
    option(
        "--policy",
        metavar="FILE.toml",
        panel=OUTPUT,
        help="Findings that are accepted, each with a reason and a last day; `-f policy` writes a draft.",
    ),
]


def _known_format(value: Optional[str]) -> Optional[str]:  # noqa: UP045 - Typer reads it at run time
    """As for every command, and the two formats of scanners."""
    return value if value in DOCUMENTS else known_format(value)


ScanFormatOpt = Annotated[
    str | None,
    option(
        "--format",
        "-f",
        metavar="FORMAT",
        callback=_known_format,
        panel=OUTPUT,
        help="terminal, json, csv, markdown, html, sarif (2.1.0, for code scanners), cyclonedx (1.6, an "
        "ML-BOM) or policy (a draft for --policy).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ScanReportOptions(ReportOptions):
    """As everywhere, and documents that other programs take."""

    format: ScanFormatOpt = None

    def check(self) -> None:
        """Raise now what writing would raise about the path later."""
        if self.format not in DOCUMENTS:
            super().check()
        elif self.output is not None:
            from modelprobe.files.atomic import check_target

            check_target(self.output, force=self.force)

    def emit_scan(self, result: ScanResult) -> None:
        """Write the report, or the document that was asked for."""
        from modelprobe.environment import brief

        if self.format not in DOCUMENTS:
            self.emit(replace(result.report(), env=brief()))
            return
        from modelprobe.console import say, write_text
        from modelprobe.files.atomic import atomic_write

        document = _document(result, self.format)
        if self.output is None:
            write_text(sys.stdout, document)
        else:
            atomic_write(self.output, document, force=self.force)
            say(f"wrote {self.output}", always=False)


def _document(result: ScanResult, format: str) -> str:
    """What other programs take."""
    if format == "sarif":
        from modelprobe.checkpoint.scan.sarif import sarif

        return sarif(result)
    if format == "policy":
        from modelprobe.checkpoint.scan.policy import policy_for

        return policy_for(result)
    from modelprobe.checkpoint.scan.bom import bom
    from modelprobe.zoo.identify import network_facts

    return bom(result, network_facts)


def command(
    paths: PathsArg, *, fail_on: FailOnOpt = "suspicious", policy: PolicyOpt = None, report: ScanReportOptions
) -> None:
    """What loading a file could run: every name that a pickle imports, judged by what it reaches. Runs nothing.

    Compressed files, archives, texts in base64 and pickles in pickles are opened. What could not be read is listed, and
    is never "clean". Exit code 1 when something is suspicious or dangerous.
    """
    report.check()
    from modelprobe.checkpoint.answers.scan import FROM_HARMLESS, scan
    from modelprobe.checkpoint.pickle.globals import Trust
    from modelprobe.checkpoint.scan.policy import read_policy

    result = scan(*paths, policy=None if policy is None else read_policy(policy))
    report.emit_scan(result)
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
