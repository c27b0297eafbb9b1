"""Folding of a tree: neighbouring parts that are copies of each other become one, with a count.

So do patterns of several parts: three linear layers and a full one, twelve times over, are two rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class FoldedBranch(Generic[T]):
    """An item of a tree in pre-order with what is below it, and for how many equal ones it stands.

    `run` of them are neighbours. `every` is the length of the pattern that they come in, counted in items; 0 where
    they are neighbours all.
    """

    item: T
    children: list[FoldedBranch[T]] = field(default_factory=list)
    copies: list[T] = field(default_factory=list)
    run: int = 1
    every: int = 0

    @property
    def count(self) -> int:
        """1, or the number of equal items that this branch stands for."""
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
            found[-1][0].run += 1
        else:
            found.append((FoldedBranch(branch.item, [child for child, _ in inside]), form))
    return _patterns_folded(found)


_LONGEST_PATTERN = 8


def _patterns_folded(found: list[tuple[FoldedBranch[T], Hashable]]) -> list[tuple[FoldedBranch[T], Hashable]]:
    """Runs that repeat in the same order become the first repetition, whose branches stand for the others as well."""
    forms = [(form, branch.run) for branch, form in found]
    kept: list[tuple[FoldedBranch[T], Hashable]] = []
    at = 0
    while at < len(found):
        length, times = _pattern_at(forms, at)
        if times < 2:
            kept.append(found[at])
            at += 1
            continue
        every = sum(branch.run for branch, _ in found[at : at + length])
        for place in range(at, at + length):
            branch, form = found[place]
            for other in range(place + length, at + length * times, length):
                branch.copies += [found[other][0].item, *found[other][0].copies]
            branch.every = every
            kept.append((branch, (form, "pattern", times)))
        at += length * times
    return kept


def _pattern_at(forms: Sequence[Hashable], at: int) -> tuple[int, int]:
    """The pattern of two runs or more that covers most from there on: its length and how often it comes."""
    best = (0, 0)
    for length in range(2, min(_LONGEST_PATTERN, (len(forms) - at) // 2) + 1):
        times = 1
        while forms[at : at + length] == forms[at + times * length : at + (times + 1) * length]:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best


def folded_paths(rows: Sequence[Any], form: Callable[[Any], Hashable]) -> list[Any]:
    """Rows of a tree with equal ones, as `form` sees them, made one.

    They are dataclasses with `path`, `depth`, and `folded`, `run` and `every`, which are filled in.
    """
    return [
        replace(b.item, depth=depth, folded=tuple(row.path for row in b.copies), run=b.run, every=b.every)
        for b, depth in flatten(fold_equal(grow(rows, lambda row: row.depth), form))
    ]


def name_of_run(row: Any) -> str:
    """The last segment of the path of a row of `folded_paths`; of a run of neighbours, the first and the last."""
    names = [path.rpartition(".")[2] for path in row.folded[: row.run - 1]]
    return range_of_names(row.path.rpartition(".")[2], names)


def folded_mark(row: Any) -> str:
    """`x12` for neighbours, `x12, every 4` or `x36, 3 of every 4` for a pattern; nothing for one.

    `row` has `folded`, the other items that it stands for, and `run` and `every` as a branch has them.
    """
    count = 1 + len(row.folded)
    if row.every:
        return f"x{count}, {row.run} of every {row.every}" if row.run > 1 else f"x{count}, every {row.every}"
    return f"x{count}" if count > 1 else ""


def range_of_names(first: str, run: Sequence[str]) -> str:
    """`0-11` for the names of a run of neighbours, `encoder_layer_0-11`; the first alone without any."""
    return f"{first}-{run[-1].removeprefix(stem(first))}" if run else first


def stem(name: str) -> str:
    """`encoder_layer_` of `encoder_layer_11`."""
    return re.sub(r"\d+$", "", name)


def flatten(branches: Sequence[FoldedBranch[T]], depth: int = 0) -> list[tuple[FoldedBranch[T], int]]:
    """Branches in pre-order with their depths."""
    rows: list[tuple[FoldedBranch[T], int]] = []
    for branch in branches:
        rows.append((branch, depth))
        rows.extend(flatten(branch.children, depth + 1))
    return rows
