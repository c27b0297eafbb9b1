"""What a run achieved: its arithmetic and memory traffic over its time, beside the measured peaks of the device."""

from __future__ import annotations

from dataclasses import dataclass

from modelprobe.cost.timing.peaks import main_dtype, peaks_of
from modelprobe.report.blocks import Fact
from modelprobe.tracing.records import Trace


@dataclass(frozen=True, slots=True)
class AchievedRates:
    """FLOPs and bytes of the recorded forward, per second of its median time. The peaks are None where none is known.

    Bytes count every operand once and every result once; what caches hold is not fetched again, so that the rate may
    be above the peak of memory.
    """

    dtype: str
    flops: int
    bytes_moved: int
    flops_per_s: float
    bytes_per_s: float
    peak_flops_per_s: float | None
    peak_bytes_per_s: float | None

    def facts(self) -> tuple[Fact, Fact]:
        """Arithmetic and memory traffic, each as a share of its peak."""
        return (
            Fact("Arithmetic", f"{self.flops_per_s / 1e9:,.4g} GFLOP/s", detail=self._share("flops_per_s")),
            Fact("Memory traffic", f"{self.bytes_per_s / 1e9:,.4g} GB/s", detail=self._share("bytes_per_s")),
        )

    def _share(self, name: str) -> str:
        peak = getattr(self, f"peak_{name}")
        if peak is None:
            return f"no peak was measured for {self.dtype}"
        unit, of = ("GFLOP/s", f"a matrix product of {self.dtype}") if name == "flops_per_s" else ("GB/s", "a copy")
        return f"{getattr(self, name) / peak:.0%} of the {peak / 1e9:,.4g} {unit} of {of} here"


def achieved_rates(trace: Trace, seconds: float, device: str, threads: int, dtype: str | None = None) -> AchievedRates:
    """The rates of a recorded forward that takes `seconds`; peaks that are not in the cache are measured now."""
    dtype = dtype or main_dtype(trace)
    moved = sum(op.bytes_read + op.bytes_written for op in trace.ops)
    peaks = peaks_of(device, dtype, threads)
    return AchievedRates(
        dtype, trace.flops, moved, trace.flops / seconds, moved / seconds,
        peaks.flops_per_s if peaks else None, peaks.bytes_per_s if peaks else None,
    )  # fmt: skip
