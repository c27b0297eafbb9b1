"""What a run achieved: its arithmetic and memory traffic over its time, beside the measured peaks of the device."""

from __future__ import annotations

from dataclasses import dataclass

from modelprobe.cost.timing.peaks import main_dtype, peaks_of
from modelprobe.environment import MeasuredPeaks
from modelprobe.report.blocks import Fact
from modelprobe.report.units import share
from modelprobe.tracing.records import Trace

AUTOCAST_TYPES = {"cpu": "bfloat16", "cuda": "float16", "mps": "float16"}


@dataclass(frozen=True, slots=True)
class AchievedRates:
    """FLOPs and bytes of the recorded forward, per second of its median time. `peaks` is None where none is known.

    Bytes count every operand once and every result once; what caches hold is not fetched again, so that the rate may
    be above the peak of memory.
    """

    dtype: str
    flops: int
    bytes_moved: int
    flops_per_s: float
    bytes_per_s: float
    peaks: MeasuredPeaks | None

    def facts(self) -> tuple[Fact, Fact]:
        """Arithmetic and memory traffic, each as a share of its peak."""
        return (
            Fact("Arithmetic", f"{self.flops_per_s / 1e9:,.4g} GFLOP/s", detail=self._share("flops_per_s")),
            Fact("Memory traffic", f"{self.bytes_per_s / 1e9:,.4g} GB/s", detail=self._share("bytes_per_s")),
        )

    def _share(self, name: str) -> str:
        if self.peaks is None:
            return f"no peak was measured for {self.dtype}"
        peak: float = getattr(self.peaks, name)
        dtype = "TF32" if self.peaks.setting.endswith("TF32") else self.dtype
        unit, of = ("GFLOP/s", f"a matrix product of {dtype}") if name == "flops_per_s" else ("GB/s", "a copy")
        return f"{share(getattr(self, name) / peak)} of the {peak / 1e9:,.4g} {unit} of {of} here"


def achieved_rates(trace: Trace, seconds: float, device: str, threads: int, autocast: bool = False) -> AchievedRates:
    """The rates of a recorded forward that takes `seconds`; peaks that are not in the cache are measured now.

    Under autocast the peak is that of the type to which it casts on the device.
    """
    dtype = AUTOCAST_TYPES[device.partition(":")[0]] if autocast else main_dtype(trace)
    moved = sum(op.bytes_read + op.bytes_written for op in trace.ops)
    convolved = sum(op.macs for op in trace.ops if op.kind == "conv")
    peaks = peaks_of(device, dtype, threads, convolutions=2 * convolved > trace.macs)
    return AchievedRates(dtype, trace.flops, moved, trace.flops / seconds, moved / seconds, peaks)
