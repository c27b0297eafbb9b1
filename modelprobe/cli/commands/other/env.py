"""`modelprobe env`: versions, devices and memory, for a bug report."""

from __future__ import annotations

from modelprobe.cli.options import ReportOptions

EXAMPLES = (
    "modelprobe env",
    "modelprobe env -f markdown",
)


def command(report: ReportOptions) -> None:
    """Versions, devices and memory that modelprobe finds here: what a bug report needs."""
    from modelprobe.environment import describe_machine

    report.check()
    report.emit(describe_machine().report())
