"""How much longer one thing takes than another, from times that were taken in pairs on a machine that is not quiet.

Neighbours in time share what disturbs them, so the ratio of a pair is steadier than either time, and pairs that follow
each other are not independent. The pairs are cut into blocks; the medians of blocks are what is tested (Wilcoxon's
signed ranks, exact), and the interval is the one that belongs to that test (Hodges and Lehmann).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LEVEL = 0.01
"""How often a difference is claimed where there is none."""

NOISY = 0.1
"""Interquartile range over median from which a run is called noisy."""

MOST_BLOCKS, LEAST_BLOCKS = 20, 8
"""With 8 blocks the signs alone can reach the level: 2 / 2**8 < 0.01."""


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """Time of the first over time of the second: the estimate and the interval at 1 - `LEVEL`."""

    ratio: float
    low: float
    high: float
    blocks: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as a share of the ratio."""
        return math.sqrt(self.high / self.low) - 1


def paired_ratio(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> PairedRatio:
    """The ratio of times taken in pairs, in the order in which they were taken; at least `LEAST_BLOCKS` pairs."""
    logs = [math.log(a / b) for a, b in zip(first, second, strict=True)]
    medians = _block_medians(logs, min(MOST_BLOCKS, len(logs)))
    while len(medians) >= 2 * LEAST_BLOCKS and _autocorrelation(medians) > 2 / math.sqrt(len(medians)):
        medians = _block_medians(logs, len(medians) // 2)
    walsh = sorted((a + b) / 2 for at, a in enumerate(medians) for b in medians[at:])
    outside = _signed_rank_quantile(len(medians), level / 2)
    low, high = walsh[outside], walsh[-1 - outside]
    return PairedRatio(math.exp(statistics.median(walsh)), math.exp(low), math.exp(high), len(medians))


def _block_medians(logs: Sequence[float], count: int) -> list[float]:
    edges = [round(at * len(logs) / count) for at in range(count + 1)]
    return [statistics.median(logs[start:end]) for start, end in pairwise(edges)]


def _autocorrelation(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    around = [value - mean for value in values]
    power = sum(one * one for one in around)
    return sum(a * b for a, b in pairwise(around)) / power if power else 0.0


def _signed_rank_quantile(count: int, tail: float) -> int:
    """The largest number of Walsh averages that may be left out at one end: P(T < it) is at most `tail`."""
    ways = [1]  # of reaching each sum of ranks
    for rank in range(1, count + 1):
        ways = [(ways[at] if at < len(ways) else 0) + (ways[at - rank] if at >= rank else 0)
                for at in range(len(ways) + rank)]  # fmt: skip
    left, total = 0, 0
    while total + ways[left] <= tail * 2**count:
        total += ways[left]
        left += 1
    return left
