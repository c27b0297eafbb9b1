"""Time and peak memory of whole processes: a command and its reference in turn, so that a drifting machine cancels."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One finished process: seconds of wall clock and of CPU, and the peak of its resident memory in bytes."""

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Comparison:
    """Runs of a command and of its reference, pair by pair."""

    command: tuple[Run, ...]
    reference: tuple[Run, ...]

    def ratios(self, of: str) -> list[float]:
        """The command's figure divided by that of the reference run beside it."""
        return [getattr(a, of) / getattr(b, of) for a, b in zip(self.command, self.reference, strict=True)]

    def differences(self, of: str) -> list[float]:
        """The command's figure less that of the reference run beside it."""
        return [getattr(a, of) - getattr(b, of) for a, b in zip(self.command, self.reference, strict=True)]

    @property
    def extra_memory(self) -> float:
        """Median peak of the command above the median peak of the reference, in MiB."""
        return (median_of(self.command, "peak") - median_of(self.reference, "peak")) / MIB


def python(code: str) -> list[str]:
    """The command line of a one-liner."""
    return [sys.executable, "-c", code]


def modelprobe(*arguments: str) -> list[str]:
    """The command line of modelprobe, its report thrown away."""
    return [sys.executable, "-m", "modelprobe", *arguments]


def run(command: Sequence[str], expected: int = 0) -> Run:
    """Run `command` once. Raises RuntimeError when it does not exit with the code expected."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def compare(command: Sequence[str], reference: Sequence[str], pairs: int) -> Comparison:
    """`pairs` runs of each in turn, after one of each that does not count."""
    run(command), run(reference)
    found = [(run(command), run(reference)) for _ in range(pairs)]
    return Comparison(tuple(a for a, _ in found), tuple(b for _, b in found))


def median_of(runs: Sequence[Run], of: str) -> float:
    """The median of one figure."""
    return statistics.median(getattr(item, of) for item in runs)


def spread(values: Sequence[float]) -> str:
    """Median and range: `1.05 (1.01 to 1.12)`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
