"""Ratios of paired times: the interval holds the truth, and disturbances that both share cancel."""

from __future__ import annotations

import math
import random

import pytest

from modelprobe.cost.timing.paired import LEAST_BLOCKS, _signed_rank_quantile, paired_ratio


def times(ratio: float, count: int, seed: int, *, drift: float = 0.0) -> tuple[list[float], list[float]]:
    """Pairs with a shared disturbance, one of their own, and bursts; `drift` correlates what is their own."""
    chance, own = random.Random(seed), 0.0
    first, second = [], []
    for _ in range(count):
        shared = math.exp(chance.gauss(0, 0.5))
        own = drift * own + chance.gauss(0, 0.03)
        burst = [5.0 if chance.random() < 0.05 else 1.0 for _ in range(2)]
        first.append(ratio * shared * math.exp(own) * burst[0])
        second.append(shared * burst[1])
    return first, second


@pytest.mark.zoo
@pytest.mark.parametrize("drift", [0.0, 0.9])
def test_no_difference_is_seldom_claimed(drift: float) -> None:
    found = [paired_ratio(*times(1.0, 400, seed, drift=drift)) for seed in range(200)]
    assert sum(not one.low <= 1 <= one.high for one in found) <= 10


def test_five_percent_are_found() -> None:
    found = [paired_ratio(*times(1.05, 400, seed)) for seed in range(100)]
    assert sum(one.low > 1.01 for one in found) >= 95
    assert all(one.low <= one.ratio <= one.high for one in found)


def test_swapped_sides_give_the_inverse() -> None:
    first, second = times(1.3, 100, 0)
    there, back = paired_ratio(first, second), paired_ratio(second, first)
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))


def test_the_quantiles_of_the_signed_ranks_are_the_published_ones() -> None:
    # Two-sided 1 %: the critical sums of Wilcoxon's table are 0 for 8 and 37 for 20.
    assert [_signed_rank_quantile(n, 0.005) - 1 for n in (8, 10, 12, 20)] == [0, 3, 7, 37]


def test_eight_pairs_are_the_least() -> None:
    one = paired_ratio([2.0] * LEAST_BLOCKS, [1.0] * LEAST_BLOCKS)
    assert (one.low, one.ratio, one.high) == pytest.approx((2, 2, 2))
