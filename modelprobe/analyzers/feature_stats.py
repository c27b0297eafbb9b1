"""What do the numbers of a layer's output say: their range, how many are zero, which channels are dead, is any NaN?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


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

    Complex values count by their magnitude, truth values as 0 and 1. The operators are chosen for their speed:
    `std_mean` and `count_nonzero` over axes take ten times as long as what stands here for them.
    """
    values = plain_values(tensor)
    if not values.numel():
        nothing = float("nan")
        return Stats(0, nothing, nothing, nothing, nothing, 0, 0, ())
    others = [dim for dim in range(values.dim()) if dim not in channels]
    highest, lowest = (values.amax(others), values.amin(others)) if others else (values, values)
    low, high = float(lowest.min()), float(highest.max())
    zeros = values.numel() - int(np.count_nonzero(values.numpy())) if not (low > 0 or high < 0) else 0
    dead = tuple(torch.nonzero((highest == 0).logical_and_(lowest == 0).reshape(-1)).reshape(-1).tolist())
    if math.isfinite(low) and math.isfinite(high):
        return Stats(values.numel(), *_moments(values), low, high, zeros, highest.numel(), dead)
    finite = values[torch.isfinite(values)]
    nan, inf = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    nothing = float("nan")
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (nothing, nothing)
    mean, std = _moments(finite) if finite.numel() else (nothing, nothing)
    return Stats(values.numel(), mean, std, low, high, zeros, highest.numel(), dead, nan, inf)


def _moments(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of finite values, in their own precision; in float64 where that overflows."""
    mean = float(values.mean())
    apart = (values - mean).reshape(-1)
    spread = float(torch.dot(apart, apart)) / apart.numel()
    if math.isfinite(spread) or values.dtype == torch.float64:
        return mean, math.sqrt(spread)
    return _moments(values.double())


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
