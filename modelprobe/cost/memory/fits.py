"""The largest batch whose memory stays within a limit."""

from __future__ import annotations

from collections.abc import Callable

from modelprobe.errors import BadInput
from modelprobe.report.units import size

MAX_BATCH = 2**20


def largest_batch(needed: Callable[[int], int], limit: int, smallest: int = 1) -> int:
    """The largest batch with `needed(batch)` bytes within `limit`; it and the next larger one are both recorded.

    The first guesses follow the straight line through two recordings, as memory grows almost in proportion.
    Raises BadInput when the smallest batch does not fit.
    """
    known: dict[int, int] = {}

    def fits(batch: int) -> bool:
        if batch not in known:
            known[batch] = needed(batch)
        return known[batch] <= limit

    if not fits(smallest):
        missing = known[smallest] - limit
        raise BadInput(
            f"a batch of {smallest} needs {size(known[smallest])}, {size(missing)} more than {size(limit)}",
            "a smaller --input or --dtype bfloat16 needs less; so does --freeze when training",
        )
    low, high = smallest, smallest * 2
    while fits(high):
        slope = (known[high] - known[low]) / (high - low)
        low = high
        if low >= MAX_BATCH:
            return low
        reach = low + int((limit - known[low]) / slope) if slope > 0 else low * 2
        high = min(MAX_BATCH, max(low + 1, reach + 1))
    while high - low > 1:
        slope = (known[high] - known[low]) / (high - low)
        guess = low + int((limit - known[low]) / slope) if slope > 0 else (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
        if fits(guess):
            low = guess
            if low + 1 < high and not fits(low + 1):
                high = low + 1
        else:
            high = guess
            if high - 1 > low and fits(high - 1):
                low = high - 1
    return low
