"""Statistics of the values of each tensor: mean, spread, extremes, zeros, NaN, a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy

from modelprobe.checkpoint.answers.decode import NumpyArray, Pieces, ValueReader
from modelprobe.checkpoint.records import Checkpoint, TensorEntry
from modelprobe.errors import BadInput, ProbeError, one_line

BINS = 16
ONCE = 1 << 20
"""Elements up to which the values are kept for the histogram; larger tensors are read a second time."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """The values of one tensor. NaN and infinities are counted and left out of everything else.

    `std` divides by n - 1, as `torch.std` does; `norm` is the square root of the sum of squares. `histogram` counts
    elements in equal bins from `min` to `max` (one bin when they are equal). `of` says what the figures are about where
    that is not the values themselves: magnitudes of complex numbers, stored integers of quantized ones. `unread` is the
    reason when nothing could be read; the figures are None then, also where there is no finite element.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    mean: float | None = None
    std: float | None = None
    norm: float | None = None
    min: float | None = None
    max: float | None = None
    histogram: tuple[int, ...] = ()
    of: str = ""
    unread: str = ""


def measure_tensors(
    checkpoint: Checkpoint, branch: str, named: Sequence[tuple[str, TensorEntry]]
) -> tuple[TensorStats, ...]:
    """The statistics of each tensor of a branch; one that several names share is read once. Memory stays bounded.

    Raises BadInput when the file as a whole cannot be read by position (one behind an address).
    """
    if "://" in checkpoint.path:
        raise BadInput(f"{checkpoint.path} is not on this machine", "statistics read every value: download it first")
    known: dict[tuple[object, ...], TensorStats] = {}
    made = []
    with ExitStack() as stack, numpy.errstate(all="ignore"):
        reader = ValueReader(checkpoint, branch, stack)
        for name, entry in named:
            if entry.identity not in known:
                known[entry.identity] = _measure(reader, name, entry)
            made.append(replace(known[entry.identity], name=name))
    return tuple(made)


def _measure(reader: ValueReader, name: str, entry: TensorEntry) -> TensorStats:
    """The figures of one tensor, or the reason why there are none."""
    try:
        found = _TensorSums()
        kept = found.read(reader.pieces(name, entry))
        again: Pieces = iter(kept) if entry.numel <= ONCE else reader.pieces(name, entry)
        histogram = _histogram(again, found.low, found.high)
    except ProbeError as error:
        return _unread(name, entry, error.message.removeprefix(f"{entry.name} "))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # a shape that numpy cannot have
        return _unread(name, entry, f"cannot be read: {one_line(error)}")
    return TensorStats(
        name, entry.dtype, entry.shape, entry.numel, found.zeros, found.nan, found.inf, found.mean, found.std,
        found.norm, found.low, found.high, histogram, _subject(entry),
    )  # fmt: skip


def _unread(name: str, entry: TensorEntry, reason: str) -> TensorStats:
    return TensorStats(name, entry.dtype, entry.shape, entry.numel, unread=reason)


def _subject(entry: TensorEntry) -> str:
    if entry.dtype.startswith("complex"):
        return "magnitudes"
    return "stored integers" if "quantised" in entry.flags else ""


class _TensorSums:
    """What is added up over the parts of a tensor, in float64; means merge as in Chan, Golub and LeVeque (1983)."""

    def __init__(self) -> None:
        self.count = self.zeros = self.nan = self.inf = 0
        self.centre = self.squares = self.power = 0.0  # mean, squares about it, squares about zero
        self.low: float | None = None
        self.high: float | None = None

    def read(self, pieces: Pieces) -> list[tuple[NumpyArray, int]]:
        """Add everything up; returns the parts of a tensor that is small enough to keep."""
        kept: list[tuple[NumpyArray, int]] = []
        held = 0
        for values, times in pieces:
            held += values.size
            kept = [*kept, (values, times)] if held <= ONCE else []
            self.add(values, times)
        return kept

    def add(self, values: NumpyArray, times: int) -> None:
        """Take in a part whose elements are each shown `times` times."""
        finite = _finite_values(values)
        if finite.size < values.size:
            nan = int(numpy.count_nonzero(numpy.isnan(values)))
            self.nan += nan * times
            self.inf += (values.size - finite.size - nan) * times
        if not finite.size:
            return
        low, high = finite.min().item(), finite.max().item()
        self.low, self.high = (
            min(low, low if self.low is None else self.low),
            max(high, high if self.high is None else self.high),
        )
        self.zeros += (finite.size - int(numpy.count_nonzero(finite))) * times
        wide = finite.astype(numpy.float64, copy=False)
        count, centre = finite.size * times, float(wide.mean())
        self.power += float(numpy.dot(wide, wide)) * times
        about = wide - centre
        apart, total = centre - self.centre, self.count + count
        self.squares += float(numpy.dot(about, about)) * times + apart * apart * self.count * count / total
        self.centre += apart * count / total
        self.count = total

    @property
    def mean(self) -> float | None:
        return _number(self.centre) if self.count else None

    @property
    def std(self) -> float | None:
        return _number(math.sqrt(self.squares / (self.count - 1))) if self.count > 1 else None

    @property
    def norm(self) -> float | None:
        return _number(math.sqrt(self.power)) if self.count else None


def _number(value: float) -> float | None:
    """None for what float64 cannot hold: the square of a number beyond 1e154."""
    return value if math.isfinite(value) else None


def _finite_values(values: NumpyArray) -> NumpyArray:
    """The finite elements; magnitudes of complex ones, whole numbers of booleans."""
    kind = values.dtype.kind
    if kind in "fc":
        good = numpy.isfinite(values)
        values = values if good.all() else values[good]
    if kind == "c":
        return numpy.abs(values)
    return values.view(numpy.uint8) if kind == "b" else values


def _histogram(pieces: Pieces, low: float | None, high: float | None) -> tuple[int, ...]:
    """Counts of the finite elements in BINS equal bins."""
    if low is None or high is None:
        return ()
    width = float(high) - float(low)
    scale = BINS / width if width else math.inf
    if not 0 < scale < math.inf:  # one value; a range that float64 cannot divide
        return (sum(_finite_values(values).size * times for values, times in pieces),)
    counts = numpy.zeros(BINS, numpy.int64)
    for values, times in pieces:
        wide = _finite_values(values).astype(numpy.float64)
        wide -= low
        wide *= scale
        counts += numpy.bincount(numpy.minimum(wide.astype(numpy.int64), BINS - 1), minlength=BINS) * times
    return tuple(counts.tolist())
