"""How do the tensors of a weight file look as a tree by the segments of their names? Equal numbered blocks once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from modelprobe.analyzers.folding import flatten, fold, grow
from modelprobe.checkpoints.entries import TensorEntry

DEEPEST = 24
"""Levels of the tree; the rest of a longer name stays together."""

FITTING = 40


@dataclass(frozen=True, slots=True)
class NameRow:
    """A tensor, or all tensors below one prefix. `path` is the whole name, `label` what this level adds to it.

    Figures of a group are sums; `copies` are the labels of equal neighbours that the row stands for (figures of one).
    """

    path: str
    label: str
    depth: int
    tensors: int
    shape: tuple[int, ...] | None
    dtypes: tuple[str, ...]
    numel: int
    nbytes: int
    role: str | None
    flags: tuple[str, ...]
    copies: tuple[str, ...] = ()

    @property
    def is_tensor(self) -> bool:
        """Whether the row is one tensor."""
        return self.shape is not None


def name_rows(
    named: Sequence[tuple[str, TensorEntry]], depth: int | None = None, all_tensors: bool = False
) -> tuple[NameRow, ...]:
    """The rows in the order of the file. Without a depth, as deep as fits on a screen; `all_tensors` lists all."""
    if all_tensors:
        return tuple(_leaf(name, name, 0, entry) for name, entry in named)
    rows = _chained(_tree(named))
    limit = depth if depth is not None else _fitting(rows)
    branches = fold(grow([row for row in rows if row.depth < limit], lambda row: row.depth), _signature)
    return tuple(
        replace(branch.item, depth=level, copies=tuple(row.label for row in branch.copies))
        for branch, level in flatten(branches)
    )


class _Node:
    """A prefix while its tensors are collected."""

    __slots__ = ("below", "entries")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.entries: list[TensorEntry] = []


def _tree(named: Sequence[tuple[str, TensorEntry]]) -> list[NameRow]:
    """Every prefix and every tensor in pre-order."""
    root = _Node()
    for name, entry in named:
        node = root
        for part in name.split(".", DEEPEST - 1):
            node = node.below.setdefault(part, _Node())
        node.entries.append(entry)
    rows: list[NameRow] = []
    _collect(root, "", 0, rows)
    return rows


def _collect(node: _Node, prefix: str, depth: int, rows: list[NameRow]) -> list[TensorEntry]:
    """Append the rows below `node` and return its tensors. The depth is bounded by DEEPEST."""
    found: list[TensorEntry] = []
    for label, child in node.below.items():
        path = f"{prefix}.{label}" if prefix else label
        for entry in child.entries:
            rows.append(_leaf(path, label, depth, entry))
            found.append(entry)
        if child.below:
            at = len(rows)
            inside = _collect(child, path, depth + 1, rows)
            rows.insert(at, _group(path, label, depth, inside))
            found += inside
    return found


def _leaf(path: str, label: str, depth: int, entry: TensorEntry) -> NameRow:
    return NameRow(
        path, label, depth, 1, entry.shape, (entry.dtype,), entry.numel, entry.nbytes, entry.role, entry.flags
    )


def _group(path: str, label: str, depth: int, entries: list[TensorEntry]) -> NameRow:
    roles = {entry.role for entry in entries}
    flags = sorted({flag for entry in entries for flag in entry.flags if flag != "by-name"})
    return NameRow(
        path=path,
        label=label,
        depth=depth,
        tensors=len(entries),
        shape=None,
        dtypes=tuple(sorted({entry.dtype for entry in entries})),
        numel=sum(entry.numel for entry in entries),
        nbytes=sum(entry.nbytes for entry in entries),
        role=roles.pop() if len(roles) == 1 else None,
        flags=tuple(flags),
    )


def _chained(rows: list[NameRow]) -> list[NameRow]:
    """The rows with every group that holds nothing but another group joined to it: `module.features` is one level."""
    joined: list[NameRow] = []
    lifts: list[tuple[int, str]] = []  # depth of a group that was joined, and its label
    for index, row in enumerate(rows):
        while lifts and row.depth <= lifts[-1][0]:
            lifts.pop()
        follower = rows[index + 1] if index + 1 < len(rows) else None
        only = follower is not None and not follower.is_tensor and follower.tensors == row.tensors and not row.is_tensor
        if only and follower is not None and follower.depth == row.depth + 1:
            lifts.append((row.depth, row.label))
            continue
        label = row.label
        for depth, text in reversed(lifts):
            if depth != row.depth - 1 - (label.count(".") - row.label.count(".")):
                break
            label = f"{text}.{label}"
        joined.append(replace(row, depth=row.depth - len(lifts), label=label))
    return joined


def _fitting(rows: Sequence[NameRow]) -> int:
    """The greatest depth at which the folded tree has few enough rows."""
    deepest = max((row.depth for row in rows), default=0) + 1
    for limit in range(2, deepest + 1):
        shown = [row for row in rows if row.depth < limit]
        if len(flatten(fold(grow(shown, lambda row: row.depth), _signature))) > FITTING:
            return limit - 1
    return deepest


def _signature(row: NameRow) -> Hashable:
    label = "0" if row.label.isdigit() else row.label
    return (label, row.shape, row.dtypes, row.numel, row.tensors, row.role, row.flags)
