"""Which neighbouring parts of a tree are copies of each other? They are shown once, with a count."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Branch(Generic[T]):
    """An item of a tree in pre-order with what is below it, and for how many equal neighbours it stands."""

    item: T
    children: list[Branch[T]] = field(default_factory=list)
    copies: list[T] = field(default_factory=list)

    @property
    def count(self) -> int:
        """1, or the number of equal neighbours that this branch stands for."""
        return 1 + len(self.copies)


def grow(items: Sequence[T], depth: Callable[[T], int]) -> list[Branch[T]]:
    """The branches of a sequence in pre-order."""
    roots: list[Branch[T]] = []
    path: list[Branch[T]] = []
    for item in items:
        branch = Branch(item)
        del path[depth(item) :]
        (path[-1].children if path else roots).append(branch)
        path.append(branch)
    return roots


def fold(branches: Sequence[Branch[T]], signature: Callable[[T], Hashable]) -> list[Branch[T]]:
    """The same tree with runs of equal neighbours, themselves or their contents, made one branch each."""
    return [branch for branch, _ in _folded(branches, signature)]


def _folded(branches: Sequence[Branch[T]], signature: Callable[[T], Hashable]) -> list[tuple[Branch[T], Hashable]]:
    found: list[tuple[Branch[T], Hashable]] = []
    for branch in branches:
        inside = _folded(branch.children, signature)
        form = (signature(branch.item), tuple((below, child.count) for child, below in inside))
        if found and found[-1][1] == form:
            found[-1][0].copies.append(branch.item)
        else:
            found.append((Branch(branch.item, [child for child, _ in inside]), form))
    return found


def flatten(branches: Sequence[Branch[T]], depth: int = 0) -> list[tuple[Branch[T], int]]:
    """Branches in pre-order with their depths."""
    rows: list[tuple[Branch[T], int]] = []
    for branch in branches:
        rows.append((branch, depth))
        rows.extend(flatten(branch.children, depth + 1))
    return rows
