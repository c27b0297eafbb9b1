"""A seeded part of a long list, for CI or for every day; the whole of it is `pytest -m "zoo or slow"`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

SEED = 7


def sampled(values: Sequence[Any], one_in: int, rest: Any = pytest.mark.slow) -> list[Any]:
    """The values as parameters of a test, all but one in so many (at least three) marked `rest`."""
    drawn = set(random.Random(SEED).sample(range(len(values)), min(len(values), max(3, len(values) // one_in))))
    found = []
    for number, value in enumerate(values):
        each = value if isinstance(value, tuple) else (value,)
        marks: list[Any] = [] if number in drawn else [rest]
        if hasattr(value, "marks"):  # a `pytest.param`
            found.append(pytest.param(*value.values, marks=[*value.marks, *marks], id=value.id))
        else:
            found.append(pytest.param(*each, marks=marks))
    return found
