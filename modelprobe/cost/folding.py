"""Folding of a tree: neighbouring parts that are copies of each other become one, with a count."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class FoldedBranch(Generic[T]):
    """An item of a tree in pre-order with what is below it, and for how many equal neighbours it stands."""

    item: T
    children: list[FoldedBranch[T]] = field(default_factory=list)
    copies: list[T] = field(default_factory=list)

    @property
    def count(self) -> int:
        """1, or the number of equal neighbours that this branch stands for."""
        return 1 + len(self.copies)


def grow(items: Sequence[T], depth: Callable[[T], int]) -> list[FoldedBranch[T]]:
    """The branches of a sequence in pre-order."""
    roots: list[FoldedBranch[T]] = []
    path: list[FoldedBranch[T]] = []
    for item in items:
        branch = FoldedBranch(item)
        del path[depth(item) :]
        (path[-1].children if path else roots).append(branch)
        path.append(branch)
    return roots


def fold_equal(branches: Sequence[FoldedBranch[T]], signature: Callable[[T], Hashable]) -> list[FoldedBranch[T]]:
    """The same tree with runs of equal neighbours, themselves or their contents, made one branch each."""
    return [branch for branch, _ in _folded(branches, signature)]


def _folded(
    branches: Sequence[FoldedBranch[T]], signature: Callable[[T], Hashable]
) -> list[tuple[FoldedBranch[T], Hashable]]:
    found: list[tuple[FoldedBranch[T], Hashable]] = []
    for branch in branches:
        inside = _folded(branch.children, signature)
        form = (signature(branch.item), tuple((below, child.count) for child, below in inside))
        if found and found[-1][1] == form:
            found[-1][0].copies.append(branch.item)
        else:
            found.append((FoldedBranch(branch.item, [child for child, _ in inside]), form))
    return found


def flatten(branches: Sequence[FoldedBranch[T]], depth: int = 0) -> list[tuple[FoldedBranch[T], int]]:
    """Branches in pre-order with their depths."""
    rows: list[tuple[FoldedBranch[T], int]] = []
    for branch in branches:
        rows.append((branch, depth))
        rows.extend(flatten(branch.children, depth + 1))
    return rows
