"""The report of `modelprobe buffers`: tensors that are not parameters, whether saved, whether changing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelprobe.cost.tables import row_mark
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, first_few, size
from modelprobe.tracing.records import ModuleTree, StateTensor

MAX_BUFFER_ROWS = 40
"""More buffers than this are shown in groups, unless all are asked for."""


NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class BufferRow:
    """One buffer. `changes` says whether a forward in train mode writes to it; None where that was not observed.

    `saved` says whether it stands in the `state_dict`: what `persistent` promises, unless the model's own hooks differ.
    """

    path: str
    owner: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    persistent: bool
    saved: bool
    changes: bool | None
    same_as: str


@dataclass(frozen=True, slots=True)
class BuffersResult(Result):
    """The buffers of a model beside its parameters."""

    model: str
    buffers: int
    elements: int
    nbytes: int
    parameters: int
    parameter_tensors: int
    parameter_bytes: int
    state_dict_entries: int
    rows: tuple[BufferRow, ...]
    grouped: bool = False
    folded: bool = False
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Buffers against parameters, then every buffer; of many, those alike together."""
        tables = (
            (_grouped_table(self.rows) if self.grouped else _buffer_table(self.rows, self.folded),) if self.rows else ()
        )
        blocks = (Facts(_buffer_facts(self)), *tables, *self.notes, *_buffer_notes(self))
        return self.blocks_report(f"{self.model}: buffers against parameters", "modelprobe.buffers/1", *blocks)


def buffers_of(
    tree: ModuleTree,
    *,
    changed: frozenset[str] | None = None,
    saved: frozenset[str] | None = None,
    show_all: bool = True,
    model: str = "",
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
) -> BuffersResult:
    """Every buffer of `tree` by path.

    `changed` are those that a train-mode forward wrote to (`Trace.changed`), `saved` the names in the `state_dict`
    (`saved_names`); without it, what is persistent counts as saved. Unless `show_all`, the report of more than
    MAX_BUFFER_ROWS buffers shows those that share owner, name and columns as one row, of fewer those that differ in the
    numbers of their paths alone; `rows` always holds all of them.
    """
    buffers = [entry for entry in tree.state if entry.role == "buffer"]
    unique = [entry for entry in tree.unique_state() if entry.role == "buffer"]
    parameters = [entry for entry in tree.unique_state() if entry.role == "parameter"]
    first: dict[int, str] = {}
    rows = tuple(_buffer_row(entry, changed, saved, first) for entry in buffers)
    return BuffersResult(
        model=model or tree.cls,
        buffers=len(unique),
        elements=sum(entry.numel for entry in unique),
        nbytes=sum(entry.nbytes for entry in unique),
        parameters=sum(entry.numel for entry in parameters),
        parameter_tensors=len(parameters),
        parameter_bytes=sum(entry.nbytes for entry in parameters),
        state_dict_entries=sum(entry.persistent for entry in tree.state) if saved is None else len(saved),
        rows=rows,
        grouped=not show_all and len(rows) > MAX_BUFFER_ROWS,
        folded=not show_all,
        notes=tuple(notes),
        env=env or {},
    )


def _buffer_row(
    entry: StateTensor, changed: frozenset[str] | None, saved: frozenset[str] | None, first: dict[int, str]
) -> BufferRow:
    same = first.setdefault(entry.identity, entry.path)
    return BufferRow(
        entry.path,
        entry.owner,
        entry.shape,
        entry.dtype,
        entry.nbytes,
        entry.persistent,
        entry.persistent if saved is None else entry.path in saved,
        None if changed is None else entry.path in changed or same in changed,
        "" if same == entry.path else same,
    )


def _buffer_facts(result: BuffersResult) -> tuple[Fact, ...]:
    saved = sum(row.saved for row in result.rows)
    facts = [
        _tensors_fact("Buffers", result.buffers, result.elements, result.nbytes),
        _tensors_fact("Parameters", result.parameter_tensors, result.parameters, result.parameter_bytes),
        Fact("state_dict", result.state_dict_entries, Unit.COUNT, f"entries, {saved} of them buffers"),
    ]
    if any(row.changes is not None for row in result.rows):
        changing = sum(bool(row.changes) for row in result.rows)
        facts.append(Fact("Updated", changing, Unit.COUNT, "buffers are written by a forward in train mode"))
    return tuple(facts)


def _tensors_fact(label: str, tensors: int, elements: int, nbytes: int) -> Fact:
    return Fact(label, tensors, Unit.COUNT, f"tensors, {elements:,} elements, {size(nbytes)}")


_SHARED_COLUMNS = (
    Column("dtype", "Dtype", priority=1),
    Column("nbytes", "Size", Unit.BYTES, priority=1),
    Column("saved", "In state_dict", Unit.YESNO),
    Column("changes", "Updated", Unit.YESNO),
)


def _buffer_table(rows: tuple[BufferRow, ...], folded: bool) -> Table:
    own = (Column("path", "Buffer"), Column("owner", "Owner", priority=2), Column("shape", "Shape", Unit.SHAPE))
    columns, drawn = (*own, *_SHARED_COLUMNS), []
    for name, row, count in _numbered_alike(rows) if folded else ((row.path, row, 1) for row in rows):
        cells = (name, *(getattr(row, column.key) for column in columns[1:]))
        copies = f"x{count}" if count > 1 else ""
        drawn.append(Row(cells, mark=row_mark(copies=copies, same_as=row.same_as), quiet=row.changes is False))
    return Table(columns, tuple(drawn), key="buffers")


def _numbered_alike(rows: tuple[BufferRow, ...]) -> Iterator[tuple[str, BufferRow, int]]:
    """Buffers that differ in the numbers of their paths alone: their common name, the first, and how many they are."""
    groups: dict[BufferRow, list[BufferRow]] = {}
    for row in rows:
        groups.setdefault(replace(row, path=NUMBERS.sub("#", row.path)), []).append(row)
    for group in groups.values():
        varied = [
            sorted(set(map(int, values))) for values in zip(*(NUMBERS.findall(row.path) for row in group), strict=True)
        ]
        ranges = sum(len(values) > 1 for values in varied) == 1
        pieces = NUMBERS.split(group[0].path)
        shown = [_range_of(values) if ranges else "*" if len(values) > 1 else str(values[0]) for values in varied]
        yield "".join(a + b for a, b in zip(pieces, [*shown, ""], strict=True)), group[0], len(group)


def _range_of(found: list[int]) -> str:
    """`0-3` for numbers without a gap, else `*`; one as it is."""
    if len(found) == 1:
        return str(found[0])
    return f"{found[0]}-{found[-1]}" if found[-1] - found[0] == len(found) - 1 else "*"


def _grouped_table(rows: tuple[BufferRow, ...]) -> Table:
    groups: dict[tuple[object, ...], list[BufferRow]] = {}
    for row in rows:
        key = (row.path.rpartition(".")[2], row.owner, row.dtype, row.saved, row.changes)
        groups.setdefault(key, []).append(row)
    own = (Column("name", "Buffers"), Column("count", "Tensors", Unit.COUNT), Column("owner", "Owner"))
    drawn = []
    for (name, *_), group in groups.items():
        first, nbytes = group[0], sum(row.nbytes for row in group if not row.same_as)
        shown = f"*.{name}" if len(group) > 1 else first.path
        drawn.append(Row((shown, len(group), first.owner, first.dtype, nbytes, first.saved, first.changes)))
    return Table((*own, *_SHARED_COLUMNS), tuple(drawn), key="groups")


def _buffer_notes(result: BuffersResult) -> list[Note]:
    if not result.rows:
        return [Note("The model has no buffers.", Level.INFO)]
    notes = []
    if result.grouped:
        notes.append(Note(f"{len(result.rows)} buffers, grouped by name: --all lists each.", Level.INFO))
    elif result.folded and any(count > 1 for _, _, count in _numbered_alike(result.rows)):
        notes.append(Note("Rows marked xN are N equal buffers; the size is that of one. --all lists each.", Level.INFO))
    lost = [row.path for row in result.rows if not row.persistent]
    if lost:
        text = f"Not persistent: made by the constructor, absent from checkpoints: {first_few(lost, 3)}."
        notes.append(Note(text, Level.INFO))
    return notes
