"""Names as a tree of whole segments, and how the names of a file are laid over those of a reference."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from modelprobe.checkpoint.wrappers import CERTAIN_WRAPPERS, WRAPPERS

T = TypeVar("T")

MAX_SEGMENTS = 64
"""Segments of a name that are told apart; a forged name could have a million."""


class NameNode:
    """A prefix: the names that end here (by their last segment), the prefixes below, how many names in all."""

    __slots__ = ("below", "count", "leaves")

    def __init__(self) -> None:
        self.below: dict[str, NameNode] = {}
        self.leaves: dict[str, str] = {}
        self.count = 0

    def names(self) -> Iterator[str]:
        """The full names at and below this prefix."""
        yield from self.leaves.values()
        for node in self.below.values():
            yield from node.names()

    def sole(self) -> str:
        """The only prefix below, if there is no other and no name ends here."""
        return next(iter(self.below)) if len(self.below) == 1 and not self.leaves else ""


def tree(names: Iterable[str]) -> NameNode:
    """The tree of dotted names."""
    root = NameNode()
    for name in names:
        *above, last = name.split(".", MAX_SEGMENTS)
        node = root
        node.count += 1
        for segment in above:
            node = node.below.setdefault(segment, NameNode())
            node.count += 1
        node.leaves[last] = name
    return root


def nodes(root: NameNode, least: int, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], NameNode]]:
    """The prefixes with at least so many names, from the root down."""
    yield path, root
    for segment, node in root.below.items():
        if node.count >= least:
            yield from nodes(node, least, (*path, segment))


def chain(node: NameNode | None, segments: Container[str] = WRAPPERS) -> int:
    """How many wrapping segments in a row are the only way down from here."""
    length = 0
    while node is not None and node.sole() in segments:
        node = node.below[node.sole()]
        length += 1
    return length


def laid_over(source: NameNode, wanted: NameNode | None, above: str = "") -> dict[str, str]:
    """The names of `source` with the wrappers taken out that `wanted` does not have. No name gets lost.

    A wrapper stands before everything below it: its segment goes only where all names of a prefix share it, and only
    as many of them as `wanted` does not have at that place.
    """
    while chain(source) > chain(wanted) and (wanted is not None or source.sole() in CERTAIN_WRAPPERS):
        source = source.below[source.sole()]
    found = {name: f"{above}{last}" for last, name in source.leaves.items()}
    for segment, node in source.below.items():
        inner = wanted.below.get(segment) if wanted is not None else None
        found.update(laid_over(node, inner, f"{above}{segment}."))
    return found


def without(name: str, segments: Container[str]) -> str:
    """The name without certain segments; its last one always stays."""
    *above, last = name.split(".")
    return ".".join([*(segment for segment in above if segment not in segments), last])


def leading(names: Iterable[str]) -> str:
    """The first segment of all names, or nothing when they differ or a name has no other."""
    first = {name.split(".", 1)[0] if "." in name else "" for name in names}
    return first.pop() if len(first) == 1 else ""


def inverted(mapping: Mapping[str, T]) -> dict[T, list[str]]:
    """Which keys lead to a value."""
    found: dict[T, list[str]] = {}
    for key, value in mapping.items():
        found.setdefault(value, []).append(key)
    return found


def drop_patterns(names: Iterable[str], kept: Sequence[str]) -> list[str]:
    """The shortest patterns that match these names and none that is kept: `fc.*`, `decoder_*`."""
    made: list[str] = []
    for name in sorted(names):
        parts = name.split(".")
        starts = [".".join(parts[:depth]) + "." for depth in range(1, len(parts))]
        word, line, _ = parts[0].partition("_")
        if line and sum(other.startswith(f"{word}_") for other in names) > 1:
            starts.insert(0, f"{word}_")
        if any(name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in made):
            continue
        free = (start for start in starts if not any(other.startswith(start) for other in kept))
        start = next(free, "")
        made.append(f"{start}*" if start else name)
    return [pattern for pattern in made if not set("[]?") & set(pattern)] if made else []
