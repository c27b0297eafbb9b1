"""The tensors of a weight file as a tree by the segments of their names; equal numbered blocks are shown once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from modelprobe.checkpoint.records import TensorEntry

MAX_TREE_DEPTH = 24
"""Levels of the tree; the rest of a longer name stays together."""

FITTING = 40
"""Rows beyond which the tree is shown to a lesser depth."""

MAX_TREE_ROWS = 1_000
"""Rows of a tree that is as flat as it can be; a file may hold hundreds of thousands of names without a dot."""


@dataclass(frozen=True, slots=True)
class NameRow:
    """A tensor, or all tensors below one prefix. `path` is the whole name, `label` what this level adds to it.

    Figures of a group are sums; `copies` are the labels of equal neighbors that the row stands for (figures of one).
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
) -> tuple[tuple[NameRow, ...], int]:
    """The rows in the order of the file, and how many are left out. Without a depth, as deep as fits on a screen.

    `all_tensors` lists every tensor, without a tree.
    """
    if all_tensors:
        return tuple(_leaf_row(name, name, 0, entry) for name, entry in named), 0
    names = _Names(named)
    if depth is not None:
        return tuple(_flat_rows(_Branching(names, depth).roots)), 0
    best = _Branching(names, 2, FITTING)
    if best.rows > FITTING:
        best = _Branching(names, 1, MAX_TREE_ROWS - 1)
        return tuple(_flat_rows(best.roots)), best.left_out
    while best.cut:
        deeper = _Branching(names, best.limit + 1, FITTING)
        if deeper.rows > FITTING:
            break
        best = deeper
    return tuple(_flat_rows(best.roots)), 0


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
        if entry.flags:
            self.flags.update(entry.flags)

    def merge(self, other: _Sum, times: int = 1) -> None:
        """Add everything below another prefix, and below those that are its copies."""
        self.tensors += other.tensors * times
        self.numel += other.numel * times
        self.nbytes += other.nbytes * times
        self.dtypes |= other.dtypes
        self.roles |= other.roles
        self.flags |= other.flags


@dataclass(slots=True)
class _Branch:
    """A row with what is shown below it. Equal neighbors have equal forms, and only the first is kept."""

    row: NameRow
    form: Hashable
    below: list[_Branch]
    copies: list[str]


@dataclass(slots=True)
class _Repeat:
    """Equal neighbors: the indices of the first one's names, the length and the segments of its prefix, all labels."""

    held: Sequence[int]
    end: int
    segments: int
    labels: list[str]


class _Names:
    """The names of a branch, taken apart level by level, each level once."""

    def __init__(self, named: Sequence[tuple[str, TensorEntry]]) -> None:
        self.named = named
        self._runs: dict[tuple[int, int], list[_Repeat]] = {}

    def runs(self, members: Sequence[int], start: int, segments: int) -> list[_Repeat]:
        """What lies directly below a prefix of `start` characters and `segments` segments, by the next segment."""
        place = (members[0], start)  # no two prefixes begin with the same name and are equally long
        if place not in self._runs:
            self._runs[place] = self._found(members, start, segments)
        return self._runs[place]

    def _found(self, members: Sequence[int], start: int, segments: int) -> list[_Repeat]:
        found: list[_Repeat] = []
        before: object = None
        for label, held in self._split(members, start, segments).items():
            end, joined = self._joined(held, start + len(label), segments + 1)
            label = self.named[held[0]][0][start:end]
            form = self._form(label, held, end)
            if form is not None and form == before:
                found[-1].labels.append(label)
            else:
                found.append(_Repeat(held, end, joined, [label]))
            before = form
        return found

    def _split(self, members: Sequence[int], start: int, segments: int) -> dict[str, list[int]]:
        """The members by the next segment of their names."""
        groups: dict[str, list[int]] = {}
        named, last = self.named, segments >= MAX_TREE_DEPTH - 1
        for index in members:
            name = named[index][0]
            end = -1 if last else name.find(".", start)
            label = name[start:] if end < 0 else name[start:end]
            if label in groups:
                groups[label].append(index)
            else:
                groups[label] = [index]
        return groups

    def _joined(self, held: Sequence[int], end: int, segments: int) -> tuple[int, int]:
        """A prefix that holds nothing but one other prefix is one level with it: `module.features`."""
        while segments < MAX_TREE_DEPTH - 1:
            name = self.named[held[0]][0]
            following = name.find(".", end + 1)
            if following < 0:
                break
            same = name[: following + 1]
            if not all(self.named[index][0].startswith(same) for index in held):
                break
            end, segments = following, segments + 1
        return end, segments

    def _form(self, label: str, held: Sequence[int], end: int) -> object:
        """Equal for two prefixes with equal tensors below; None for a prefix that is a tensor's name."""
        if any(len(self.named[index][0]) == end for index in held):
            return None
        below = [
            (name[end:], entry.shape, entry.dtype, entry.nbytes, entry.role, entry.flags)
            for name, entry in map(self.named.__getitem__, held)
        ]
        return _without_numbers(label), below


class _Branching:
    """The tree down to `limit` levels, folded while it is built: of a run of equal blocks only one is ever in memory.

    `rows` counts those to be shown, `cut` tells whether something lies deeper. Of what lies directly below one prefix,
    no more than one beyond `most` is taken; the rest is counted in `left_out`.
    """

    def __init__(self, names: _Names, limit: int, most: int | None = None) -> None:
        self.limit = limit
        self.cut = False
        self.left_out = 0
        self._most = most
        self._names = names
        self.roots, _ = self._level(range(len(names.named)), 0, 0, 0)
        self.rows = sum(1 for _ in _flat_rows(self.roots))

    def _level(self, members: Sequence[int], start: int, segments: int, depth: int) -> tuple[list[_Branch], _Sum]:
        """The branches below a prefix of `start` characters and `segments` segments, and their sum."""
        total, found = _Sum(), list[_Branch]()
        if depth >= self.limit:
            self.cut = self.cut or bool(members)
            for index in members:
                total.count(self._names.named[index][1])
        elif members:
            runs = self._names.runs(members, start, segments)
            for number, run in enumerate(runs):
                if self._most is not None and len(found) > self._most:
                    self.left_out += len(runs) - number
                    break
                total.merge(self._add(found, run, depth), len(run.labels))
                found[-1].copies += run.labels[1:]
        return found, total

    def _add(self, found: list[_Branch], run: _Repeat, depth: int) -> _Sum:
        """Append the tensors that end at a prefix, and what lies below it; returns the sum."""
        named, total = self._names.named, _Sum()
        path, label = named[run.held[0]][0][: run.end], run.labels[0]
        leaves = [index for index in run.held if len(named[index][0]) == run.end]
        for index in leaves:
            total.count(named[index][1])
            _append(found, _leaf_row(path, label, depth, named[index][1]), [])
        if len(leaves) < len(run.held):
            inner = [index for index in run.held if len(named[index][0]) > run.end] if leaves else run.held
            below, inside = self._level(inner, run.end + 1, run.segments, depth + 1)
            total.merge(inside)
            _append(found, _grouped_rows(path, label, depth, inside), below)
        return total


def _append(found: list[_Branch], row: NameRow, below: list[_Branch]) -> None:
    """Add a branch, or count it as one more copy of its neighbor."""
    form = (_row_signature(row), tuple((branch.form, len(branch.copies)) for branch in below))
    if found and found[-1].form == form:
        found[-1].copies.append(row.label)
    else:
        found.append(_Branch(row, form, below, []))


def _flat_rows(branches: Sequence[_Branch]) -> Iterator[NameRow]:
    """The rows in pre-order. The depth is bounded by MAX_TREE_DEPTH."""
    for branch in branches:
        yield replace(branch.row, copies=tuple(branch.copies)) if branch.copies else branch.row
        yield from _flat_rows(branch.below)


def _leaf_row(path: str, label: str, depth: int, entry: TensorEntry) -> NameRow:
    return NameRow(
        path, label, depth, 1, entry.shape, (entry.dtype,), entry.numel, entry.nbytes, entry.role, entry.flags
    )


def _grouped_rows(path: str, label: str, depth: int, held: _Sum) -> NameRow:
    role = next(iter(held.roles)) if len(held.roles) == 1 else None
    dtypes, flags = tuple(sorted(held.dtypes)), tuple(sorted(held.flags - {"by-name", "attributes"}))
    return NameRow(path, label, depth, held.tensors, None, dtypes, held.numel, held.nbytes, role, flags)


def _row_signature(row: NameRow) -> Hashable:
    return (_without_numbers(row.label), row.shape, row.dtypes, row.numel, row.tensors, row.role, row.flags)


def _without_numbers(label: str) -> str:
    """Numbers of a list are no difference."""
    return "0" if label.isdigit() else label
