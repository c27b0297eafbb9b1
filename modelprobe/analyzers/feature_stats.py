"""What do the numbers of a layer's output say: their range, how many are zero, which channels are dead, is any NaN?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    Complex values count by their magnitude, truth values as 0 and 1. Three passes over the tensor when all is finite.
    """
    values = plain_values(tensor)
    if not values.numel():
        nothing = float("nan")
        return Stats(0, nothing, nothing, nothing, nothing, 0, 0, ())
    low, high = (float(bound) for bound in torch.aminmax(values))
    nan = inf = 0
    finite = values
    if not (math.isfinite(low) and math.isfinite(high)):
        nan, inf = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
        finite = values[torch.isfinite(values)]
        low, high = (float(bound) for bound in torch.aminmax(finite)) if finite.numel() else (math.nan, math.nan)
    std, mean = torch.std_mean(finite, correction=0) if finite.numel() else (torch.tensor(math.nan),) * 2
    others = [dim for dim in range(values.dim()) if dim not in channels]
    alive = torch.count_nonzero(values, dim=others) if others else (values != 0).to(torch.int64)
    dead = tuple(torch.nonzero(alive.reshape(-1) == 0).reshape(-1).tolist())
    zeros = values.numel() - int(alive.sum())
    return Stats(values.numel(), float(mean), float(std), low, high, zeros, alive.numel(), dead, nan, inf)


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
