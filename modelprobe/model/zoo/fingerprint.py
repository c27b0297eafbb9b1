"""Names and shapes of a state_dict, with the numbers in names apart: how a network is told from others.

`layer1.0.conv2.weight` is the pattern `layer#.#.conv#.weight` with the numbers (1, 0, 2). The blocks of a network share
patterns and shapes, so that a profile (how often each pattern stands with each shape) is short.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from modelprobe.model.zoo.index import IndexedModel

T = TypeVar("T")

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


class KnownProfiles(Generic[T]):
    """Networks by what kinds of tensors they have, and how many of each."""

    def __init__(self, models: Sequence[tuple[IndexedModel, Counter[T]]]) -> None:
        self.models = models
        self._totals = [profile.total() for _, profile in models]
        self._asked = False

    @cached_property
    def _holders(self) -> dict[T, list[tuple[int, int]]]:
        """Kind -> the networks that have it, and how often."""
        found: dict[T, list[tuple[int, int]]] = {}
        for place, (_, profile) in enumerate(self.models):
            for kind, number in profile.items():
                found.setdefault(kind, []).append((place, number))
        return found

    def nearest(self, kinds: Counter[T], count: int) -> list[IndexedModel]:
        """The networks that share the most tensors with `kinds`, by the share of all that either has."""
        total = kinds.total()
        scored = [(-n / (total + self._totals[place] - n), place) for place, n in self._shared(kinds).items() if n]
        return [self.models[place][0] for _, place in heapq.nsmallest(count, scored)]

    def _shared(self, kinds: Counter[T]) -> dict[int, int]:
        """The number of tensors in common, by the network's place."""
        if not self._asked:  # a table of all kinds is worth making for the second question only
            self._asked = True
            both = ((place, kinds.keys() & profile.keys(), profile) for place, (_, profile) in enumerate(self.models))
            return {place: sum(min(kinds[kind], profile[kind]) for kind in same) for place, same, profile in both}
        shared: dict[int, int] = {}
        for kind, number in kinds.items():
            for place, theirs in self._holders.get(kind, ()):
                shared[place] = shared.get(place, 0) + min(number, theirs)
        return shared
