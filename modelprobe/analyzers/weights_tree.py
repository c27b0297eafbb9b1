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
    rows = _tree(named)
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


class _Sum:
    """What lies below a prefix."""

    __slots__ = ("dtypes", "flags", "nbytes", "numel", "roles", "tensors")

    def __init__(self) -> None:
        self.tensors = self.numel = self.nbytes = 0
        self.dtypes: set[str] = set()
        self.roles: set[str | None] = set()
        self.flags: set[str] = set()

    def count(self, entry: TensorEntry) -> None:
        """Add a tensor."""
        self.tensors += 1
        self.numel += entry.numel
        self.nbytes += entry.nbytes
        self.dtypes.add(entry.dtype)
        self.roles.add(entry.role)
        self.flags.update(entry.flags)

    def merge(self, other: _Sum) -> None:
        """Add everything below another prefix."""
        self.tensors += other.tensors
        self.numel += other.numel
        self.nbytes += other.nbytes
        self.dtypes |= other.dtypes
        self.roles |= other.roles
        self.flags |= other.flags


def _tree(named: Sequence[tuple[str, TensorEntry]]) -> list[NameRow]:
    """Every prefix and every tensor in pre-order."""
    root = _Node()
    for name, entry in named:
        node = root
        for part in name.split(".", DEEPEST - 1):
            below = node.below.get(part)
            if below is None:
                below = node.below[part] = _Node()
            node = below
        node.entries.append(entry)
    rows: list[NameRow] = []
    _collect(root, "", 0, rows)
    return rows


def _collect(node: _Node, prefix: str, depth: int, rows: list[NameRow]) -> _Sum:
    """Append the rows below `node` and return their sum. The depth is bounded by DEEPEST."""
    total = _Sum()
    for first, below in node.below.items():
        label, child = _joined(first, below)
        path = f"{prefix}.{label}" if prefix else label
        for entry in child.entries:
            rows.append(_leaf(path, label, depth, entry))
            total.count(entry)
        if child.below:
            at = len(rows)
            inside = _collect(child, path, depth + 1, rows)
            rows.insert(at, _group(path, label, depth, inside))
            total.merge(inside)
    return total


def _joined(label: str, node: _Node) -> tuple[str, _Node]:
    """A prefix that holds nothing but one other prefix is one level with it: `module.features`."""
    while not node.entries and len(node.below) == 1:
        ((inner, only),) = node.below.items()
        if only.entries or not only.below:
            break
        label, node = f"{label}.{inner}", only
    return label, node


def _leaf(path: str, label: str, depth: int, entry: TensorEntry) -> NameRow:
    return NameRow(
        path, label, depth, 1, entry.shape, (entry.dtype,), entry.numel, entry.nbytes, entry.role, entry.flags
    )


def _group(path: str, label: str, depth: int, held: _Sum) -> NameRow:
    role = next(iter(held.roles)) if len(held.roles) == 1 else None
    dtypes, flags = tuple(sorted(held.dtypes)), tuple(sorted(held.flags - {"by-name"}))
    return NameRow(path, label, depth, held.tensors, None, dtypes, held.numel, held.nbytes, role, flags)


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
