"""`modelprobe env`: versions, devices and memory, for a bug report."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from modelprobe.cli.options import COUNTING, ReportOptions, option

EXAMPLES = (
    "modelprobe env",
    "modelprobe env -f markdown",
)


PeaksOpt = Annotated[
    bool,
    option("--peaks", panel=COUNTING, help="Measure matrix products and copies here, some seconds; they are kept."),
]


def command(*, peaks: PeaksOpt = False, report: ReportOptions) -> None:
    """Versions, devices and memory that modelprobe finds here: what a bug report needs. Measured peaks of the devices
    with --peaks, or where they were measured before."""
    from modelprobe.cost.timing.peaks import measured_peaks
    from modelprobe.environment import describe_machine

    report.check()
    found = describe_machine()
    report.emit(replace(found, peaks=measured_peaks(found, anew=peaks)).report())
