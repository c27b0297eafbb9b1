"""The values of one tensor of a file, added up in one pass: extremes, moments, a sample, and each output's norm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy

SAMPLE = 16_384
"""Values that are kept for tests of their distribution."""

MAX_OUTPUTS = 1 << 17
"""Outputs (rows of a weight) whose norms are kept."""


@dataclass(slots=True)
class TensorValues:
    """What is known of a tensor's values; NaN and infinities are counted and left out of the rest.

    `rows` are the sums of squares of each output's weights. `coarse` says that the type has few digits.
    """

    shape: tuple[int, ...]
    count: int = 0
    nan: int = 0
    inf: int = 0
    low: float | None = None
    high: float | None = None
    total: float = 0.0
    squares: float = 0.0
    coarse: bool = False
    sample: Any = field(default_factory=lambda: numpy.empty(0, numpy.float32))
    rows: Any = None

    @property
    def mean(self) -> float | None:
        """The mean of the finite values."""
        return self.total / self.count if self.count else None

    @property
    def rms(self) -> float | None:
        """The root of the mean square."""
        return math.sqrt(self.squares / self.count) if self.count else None

    @property
    def std(self) -> float | None:
        """The deviation about the mean."""
        if not self.count:
            return None
        return math.sqrt(max(0.0, self.squares / self.count - (self.total / self.count) ** 2))

    def is_constant(self, value: float) -> bool:
        """Whether every value is this one."""
        return self.count > 0 and not self.nan and not self.inf and self.low == self.high == value


def read_values(pieces: Iterable[tuple[Any, int]], shape: tuple[int, ...], dtype: str, packed: bool) -> TensorValues:
    """Add up the pieces of a tensor, in the order of memory. `packed`: that is the order of the indices."""
    found = TensorValues(shape, coarse=dtype in ("bfloat16", "float16") or dtype.startswith("float8"))
    width = math.prod(shape[1:]) if len(shape) > 1 else 1
    if packed and shape and 0 < shape[0] <= MAX_OUTPUTS:
        found.rows = numpy.zeros(shape[0])
    done = 0
    for values, times in pieces:
        start, done = done, done + values.size
        if values.dtype.kind not in "f":
            values = numpy.abs(values).astype(numpy.float32) if values.dtype.kind == "c" else values.astype("float64")
        if times != 1:
            found.rows = None
        total = float(values.sum(dtype=numpy.float64))
        if not math.isfinite(total) or values.dtype == numpy.float16:
            good = numpy.isfinite(values)
            nan = int(numpy.isnan(values).sum())
            found.nan += nan
            found.inf += values.size - int(good.sum()) - nan
            values = numpy.where(good, values, 0).astype(numpy.float32)
            bad = values.size - int(good.sum())
            total = float(values.sum(dtype=numpy.float64))
        else:
            bad = 0
        if not values.size:
            continue
        found.count += values.size - bad
        low, high = float(values.min()), float(values.max())
        found.low = low if found.low is None else min(low, found.low)
        found.high = high if found.high is None else max(high, found.high)
        found.total += total
        if found.rows is None:
            found.squares += float(numpy.dot(values, values)) if values.dtype == "float64" else _squares(values)
        else:
            found.squares += _add_rows(found.rows, values, start, width)
        if found.sample.size < SAMPLE:
            # A stride that no dimension has, so that the sample is of the whole piece.
            step = max(1, values.size // SAMPLE)
            found.sample = numpy.concatenate([found.sample, values[::step][: SAMPLE - found.sample.size]])
    return found


def _squares(values: Any) -> float:
    # einsum adds float32 up in float32, a block at a time: in blocks of 64 Ki the error stays below 1e-5.
    return float(sum(float(numpy.dot(part, part)) for part in numpy.array_split(values, max(1, values.size >> 16))))


def _add_rows(rows: Any, values: Any, start: int, width: int) -> float:
    """Add the squares of values that begin at element `start` to those of their outputs; their sum."""
    first, inside = divmod(start, width)
    head = min(values.size, (width - inside) % width)
    total = 0.0
    if head:
        total += float(numpy.dot(values[:head], values[:head]))
        rows[first] += total
        first += 1
    body = values[head : head + (values.size - head) // width * width].reshape(-1, width)
    if body.size:
        sums = numpy.einsum("ij,ij->i", body, body)
        rows[first : first + len(sums)] += sums
        total += float(sums.sum(dtype=numpy.float64))
    tail = values[head + body.size :]
    if tail.size:
        last = float(numpy.dot(tail, tail))
        rows[first + len(body)] += last
        total += last
    return total
