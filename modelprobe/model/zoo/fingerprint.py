"""Names and shapes of a state_dict, with the numbers in names apart: how a network is told from others.

`layer1.0.conv2.weight` is the pattern `layer#.#.conv#.weight` with the numbers (1, 0, 2). The blocks of a network share
patterns and shapes, so that a profile (how often each pattern stands with each shape) is short.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

NAME_NUMBER = re.compile(r"0|[1-9]\d*")
"""A number without leading zeros, so that names can be put together again: `01` is two of them."""

TensorShape: TypeAlias = "tuple[int, ...]"
NamedShapes: TypeAlias = "Mapping[str, TensorShape]"
Profile: TypeAlias = "Counter[tuple[str, TensorShape]]"
"""How many tensors have each pattern and shape."""

NumbersByKind: TypeAlias = "dict[tuple[str, TensorShape], list[int]]"
"""The numbers of every name with that pattern and shape, one name after the other."""


def pattern_of(name: str) -> str:
    """A name with `#` for each of its numbers."""
    return NAME_NUMBER.sub("#", name)


def profile_of(names: NamedShapes) -> Profile:
    """The profile of a state_dict."""
    return Counter((pattern_of(name), tuple(shape)) for name, shape in names.items())


def numbers_by_kind(names: NamedShapes) -> NumbersByKind:
    """Pattern and shape -> the numbers in the names, in the state_dict's order."""
    found: NumbersByKind = {}
    for name, shape in names.items():
        found.setdefault((pattern_of(name), tuple(shape)), []).extend(int(text) for text in NAME_NUMBER.findall(name))
    return found


def names_from(kinds: Iterable[tuple[str, TensorShape, int, list[int]]]) -> Iterator[tuple[str, TensorShape]]:
    """The names and shapes back from (pattern, shape, how many, numbers)."""
    for pattern, shape, count, numbers in kinds:
        parts = pattern.split("#")
        step = len(parts) - 1
        for index in range(count):
            chosen = numbers[index * step : (index + 1) * step]
            yield "".join(f"{part}{number}" for part, number in zip(parts, [*map(str, chosen), ""], strict=True)), shape
