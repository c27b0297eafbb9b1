"""The roofline: what each layer achieves, what arithmetic, memory traffic and launches allow, and which of them binds.

S. Williams, A. Waterman, D. Patterson, Roofline: An Insightful Visual Performance Model, CACM 52(4), 2009.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from modelprobe.cost.timing.layers.times import BETWEEN, IDLE, Reconciled
from modelprobe.environment import MeasuredPeaks
from modelprobe.report.blocks import Block, Column, Figure, Note, Row, Table
from modelprobe.report.units import Unit, seconds

ARITHMETIC, MEMORY, LAUNCH = "arithmetic", "memory", "launch overhead"

FAR_FROM_ROOF = 4
"""From this factor on the kernel itself is what holds a layer back, far from the peak that it could reach."""

ABOVE = 1.1
"""A rate that many times the peak is not at it, but above it."""

ABOVE_PEAKS = (
    "Rates above a peak: caches held what was read, or the peaks were measured while the machine was busy; "
    "modelprobe env --peaks measures them again."
)

HOT_SHARE, MOST_HOT = 0.01, 8
"""Layers that a report speaks of: of this share of the median, and at most so many."""


@dataclass(frozen=True, slots=True)
class LayerRoof:
    """A layer by its own operators. `bound` is the limit that takes longest: `arithmetic_s`, `memory_s` or `launch_s`.

    `intensity` is FLOPs per byte, `flops_per_s` what it achieves, `roof_flops_per_s` what intensity and peaks allow.
    `left` is the time over that of its arithmetic or its memory traffic, the longer one.
    """

    path: str
    cls: str
    seconds: float
    share: float
    operators: int
    flops: int
    bytes_moved: int
    intensity: float
    flops_per_s: float
    roof_flops_per_s: float
    arithmetic_s: float
    memory_s: float
    launch_s: float
    bound: str
    left: float

    @property
    def sentence(self) -> str:
        """What binds it, in plain words."""
        if self.bound == LAUNCH:
            many = "1 operator takes" if self.operators == 1 else f"{self.operators:,} operators take"
            started = f"Bound by launch overhead: {many} {seconds(self.launch_s)} to start"
            if math.isinf(self.left):
                return f"{started}, and computes nothing."
            work = seconds(max(self.arithmetic_s, self.memory_s))
            return (
                f"{started}, the work {work}; up to {self.left:.3g}x faster in a larger batch or with fewer operators."
            )
        least = max(self.arithmetic_s, self.memory_s)
        amount, unit = (self.flops, "GFLOP/s") if self.bound == ARITHMETIC else (self.bytes_moved, "GB/s")
        reached = f"{amount / self.seconds / 1e9:,.4g} of {amount / least / 1e9:,.4g} {unit}"
        if self.left < 1 / ABOVE:
            return f"Bound by {self.bound}, above the measured peak: {reached}."
        if self.left <= 1:
            return f"Bound by {self.bound}, and at the peak: {reached}."
        if self.left >= FAR_FROM_ROOF:
            return f"Bound by its kernel before {self.bound}: {reached}; up to {self.left:.3g}x faster."
        return f"Bound by {self.bound}: {reached}; up to {self.left:.3g}x faster."


@dataclass(frozen=True, slots=True)
class Roofline:
    """Every layer that took time, the hottest first, under the peaks of the device. `plot` is a drawn picture.

    `convolution_peaks` are those of layers that convolve, where they differ.
    """

    peaks: MeasuredPeaks
    layers: tuple[LayerRoof, ...]
    note: str = ""
    convolution_peaks: MeasuredPeaks | None = None
    plot: str | None = None

    @property
    def hot(self) -> tuple[LayerRoof, ...]:
        """The layers that a report speaks of."""
        return tuple(layer for layer in self.layers if layer.share >= HOT_SHARE)[:MOST_HOT]

    def blocks(self) -> tuple[Block, ...]:
        """The hot layers, how near to their roof they are, and a sentence for each."""
        columns = (
            Column("path", "Hot layer"),
            Column("seconds", "Time", Unit.SECONDS, priority=1),
            Column("intensity", "FLOP/byte", Unit.NUMBER, priority=2),
            Column("reached", "Of roof", Unit.SHARE, bar=True),
            Column("sentence", "What binds it", wrap=True),
        )
        rows = tuple(
            Row((one.path or one.cls, one.seconds, one.intensity, min(1.0, 1 / one.left), one.sentence), path=one.path)
            for one in self.hot
        )
        found: list[Block] = [Table(columns, rows, "roofline", key="roofline")] if rows else []
        if self.plot:
            from pathlib import Path

            found.append(Figure(Path(self.plot), "roofline"))
        return (*found, *((Note(self.note),) if self.note else ()))


def roofline(
    times: Reconciled, peaks: MeasuredPeaks, note: str = "", convolutions: MeasuredPeaks | None = None
) -> Roofline:
    """The layers of reconciled times under measured peaks; `convolutions` are those of layers that convolve."""
    convolutions = convolutions or peaks
    rollup = times.rollup()
    classes = {node.path: node.cls for node in times.trace.tree.modules}
    pieces = [piece for piece in times.pieces if piece.name != IDLE]
    launches = Counter(piece.module for piece in pieces if piece.name != BETWEEN)
    between: Counter[str] = Counter()
    for piece in pieces:
        if piece.name == BETWEEN:
            between[piece.module] += piece.cost.seconds  # type: ignore[assignment]
    convolve = {piece.module for piece in pieces if piece.kind == "conv"}
    found = []
    for path, cost in rollup.own.items():
        own = convolutions if path in convolve else peaks
        took = cost.seconds - sum(p.cost.seconds for p in times.pieces if p.name == IDLE and p.module == path)
        if took <= 0 or not launches[path]:
            continue
        arithmetic, memory = cost.flops / own.flops_per_s, cost.bytes_moved / own.bytes_per_s
        launch = launches[path] * peaks.launch_s + between[path]
        limits = {ARITHMETIC: arithmetic, MEMORY: memory, LAUNCH: launch}
        least = max(arithmetic, memory)
        if 2 * launch < took and least:  # launches alone do not explain it
            del limits[LAUNCH]
        bound = max(limits, key=lambda name: limits[name]) if least else LAUNCH
        intensity = cost.flops / cost.bytes_moved if cost.bytes_moved else 0.0
        found.append(LayerRoof(
            path, classes.get(path, ""), took, took / times.median_s, launches[path], cost.flops, cost.bytes_moved,
            intensity, cost.flops / took, min(own.flops_per_s, intensity * own.bytes_per_s), arithmetic, memory,
            launch, bound, took / least if least else math.inf,
        ))  # fmt: skip
    layers = tuple(sorted(found, key=lambda one: -one.seconds))
    if any(layer.left < 1 / ABOVE for layer in layers if layer.share >= HOT_SHARE):
        note = " ".join(filter(None, (note, ABOVE_PEAKS)))
    return Roofline(peaks, layers, note, convolutions if convolutions != peaks else None)
