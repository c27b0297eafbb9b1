"""Statistics of a layer's output: range, zeros, dead channels, NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ValueArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Stats:
    """Of the finite values of one or several outputs; `std` is that of the population.

    `zeros` is the number of exact zeros among `count` values. A channel is dead when all its values are exactly zero.
    """

    count: int
    mean: float
    std: float
    min: float
    max: float
    zeros: int
    channels: int
    dead_channels: tuple[int, ...]
    nan: int = 0
    inf: int = 0

    @property
    def zero_share(self) -> float:
        """The share of zeros, from 0 to 1."""
        return self.zeros / self.count if self.count else 0.0

    @property
    def dead(self) -> int:
        """How many channels are dead."""
        return len(self.dead_channels)

    def with_more(self, other: Stats) -> Stats:
        """Of both outputs together. A channel is dead when it is in both."""
        finite, more = self.count - self.nan - self.inf, other.count - other.nan - other.inf
        if not more:
            merged = self
        elif not finite:
            merged = other
        else:
            total = finite + more
            apart = other.mean - self.mean
            spread = (finite * self.std**2 + more * other.std**2 + apart**2 * finite * more / total) / total
            low, high = min(self.min, other.min), max(self.max, other.max)
            merged = replace(self, mean=self.mean + apart * more / total, std=math.sqrt(spread), min=low, max=high)
        return replace(
            merged,
            count=self.count + other.count,
            zeros=self.zeros + other.zeros,
            channels=max(self.channels, other.channels),
            dead_channels=tuple(sorted(set(self.dead_channels) & set(other.dead_channels))),
            nan=self.nan + other.nan,
            inf=self.inf + other.inf,
        )


def stats_of(tensor: Tensor, channels: Sequence[int]) -> Stats:
    """The figures of one output; `channels` are the axes that number its channels (none: it has one channel).

    Complex values count by their magnitude, truth values as 0 and 1. In numpy, whose reductions cost a tenth of torch's
    `std_mean` and `count_nonzero` over axes, and whose small operators cost less to call.
    """
    values: ValueArray = plain_values(tensor).numpy()
    nothing = math.nan
    if not values.size:
        return Stats(0, nothing, nothing, nothing, nothing, 0, 0, ())
    others = tuple(dim for dim in range(values.ndim) if dim not in channels)
    highest, lowest = values.max(axis=others), values.min(axis=others)
    low, high = float(lowest.min()), float(highest.max())
    zeros = 0 if low > 0 or high < 0 else values.size - int(np.count_nonzero(values))
    dead = tuple(np.flatnonzero((highest == 0) & (lowest == 0)).tolist()) if zeros else ()
    if math.isfinite(low) and math.isfinite(high):
        return Stats(values.size, *_moments(values), low, high, zeros, highest.size, dead)
    finite = values[np.isfinite(values)]
    nan = int(np.isnan(values).sum())
    inf = values.size - finite.size - nan
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (nothing, nothing)
    mean, std = _moments(finite) if finite.size else (nothing, nothing)
    return Stats(values.size, mean, std, low, high, zeros, highest.size, dead, nan, inf)


def _moments(values: ValueArray) -> tuple[float, float]:
    """Mean and standard deviation of finite values, in their own precision; in float64 where that overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean())
        apart = (values - values.dtype.type(mean)).ravel(order="K")
        spread = float(np.dot(apart, apart)) / apart.size
    if math.isfinite(spread) or values.dtype == np.float64:
        return mean, math.sqrt(spread)
    return _moments(values.astype(np.float64))


def plain_values(tensor: Tensor) -> Tensor:
    """The values as dense floating-point numbers on the CPU: float64 stays, everything narrower is float32."""
    values = tensor.detach()
    if values.is_nested:
        values = values.values()
    if values.is_quantized:
        values = values.dequantize()
    if values.layout is not torch.strided:
        values = values.to_dense()
    values = values.cpu()
    if values.is_complex():
        values = values.abs()
    return values if values.dtype in (torch.float32, torch.float64) else values.to(torch.float32)
