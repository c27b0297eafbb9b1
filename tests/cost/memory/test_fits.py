"""The largest batch within a limit."""

from __future__ import annotations

import pytest

from modelprobe.cost.memory.fits import largest_batch
from modelprobe.errors import BadInput


@pytest.mark.parametrize("limit", [150, 1_099, 1_100, 123_456])
def test_it_fits_and_the_next_larger_does_not(limit: int) -> None:
    asked: dict[int, int] = {}

    def needed(batch: int) -> int:
        asked[batch] = 50 + 10 * batch + (7 if batch > 20 else 0)
        return asked[batch]

    found = largest_batch(needed, limit)
    assert asked[found] <= limit < asked[found + 1]
    assert len(asked) < 10


def test_what_is_missing_is_said() -> None:
    with pytest.raises(BadInput, match="24 B more than 100 B"):
        largest_batch(lambda batch: 124 * batch, 100)
