"""What is in this weight file: its format, the model in it, every tensor, and everything that is not one?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelprobe.analyzers.result import Result
from modelprobe.analyzers.weights_tree import NameRow, name_rows
from modelprobe.checkpoints.branches import pick
from modelprobe.checkpoints.entries import (
    BUFFER,
    DAMAGE,
    FLAG_TEXT,
    PARAMETER,
    Branch,
    Checkpoint,
    Finding,
    Item,
    Scalar,
    TensorEntry,
    Wrapper,
)
from modelprobe.checkpoints.verdicts import Verdict, verdict
from modelprobe.errors import BadInput
from modelprobe.report import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.units import Unit, size

MOST_VALUES = 60
MOST_SHARED = 30
CUT = 120


@dataclass(frozen=True, slots=True)
class Content:
    """One entry at the top of the file: what it is, and how many tensors and bytes lie under it."""

    key: str
    kind: str
    type: str
    length: int
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Value:
    """A value that is no tensor: an epoch, a learning rate, a version."""

    path: str
    kind: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class DtypeShare:
    """How many tensors, elements and bytes of the branch have one dtype."""

    dtype: str
    tensors: int
    numel: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Tensors that use one storage. `tied`: they are the same tensor; otherwise views of parts of it."""

    storage: str
    names: tuple[str, ...]
    nbytes: int
    tied: bool


@dataclass(frozen=True, slots=True)
class GlobalUse:
    """A name that ordinary unpickling would import, and how far it can be trusted."""

    name: str
    verdict: Verdict
    count: int
    called: bool


@dataclass(frozen=True, slots=True)
class WeightsSummary(Result):
    """A weight file as it declares itself. Counts of elements take a tied tensor once; `damaged` asks for exit code 1.

    `parameters` and `buffers` are elements whose role is known or guessed by name, `undecided` those of no known role.
    """

    path: str
    format: str
    version: str
    size: int
    branch: Branch | None
    alternatives: tuple[Branch, ...]
    tensors: int
    parameters: int
    buffers: int
    undecided: int
    nbytes: int
    guessed: int
    contents: tuple[Content, ...]
    rows: tuple[NameRow, ...]
    dtypes: tuple[DtypeShare, ...]
    devices: tuple[str, ...]
    shared: tuple[Shared, ...]
    wasted_bytes: int
    optimizer_bytes: int
    all_bytes: int
    values: tuple[Value, ...]
    values_left_out: int
    globals: tuple[GlobalUse, ...]
    wrappers: tuple[Wrapper, ...]
    findings: tuple[Finding, ...]
    flags: tuple[tuple[str, int], ...]
    code: str
    damaged: bool

    def report(self) -> Report:
        """Head, tensors, contents, other values, shared storages, names that would be imported, notes."""
        blocks: list[Block] = [Facts(_facts(self))]
        tables = (_tensor_table(self.rows), _contents_table(self), _dtype_table(self), _shared_table(self),
                  _value_table(self), _global_table(self))  # fmt: skip
        blocks += [table for table in tables if table.rows]
        return Report(f"{self.path}: {self.format}", "modelprobe.weights/1", (*blocks, *_notes(self)), self.to_dict())


def summarize_weights(
    checkpoint: Checkpoint, depth: int | None = None, all_tensors: bool = False, branch: str | None = None
) -> WeightsSummary:
    """Summarise a listing. `branch` is a dotted name ("." is the root); `depth` levels of names, `all_tensors` for all.

    Raises BadInput for a branch that the file does not have.
    """
    chosen = checkpoint.branch if branch is None else _asked(checkpoint, branch)
    entries = checkpoint.tensors_in(chosen) if chosen else ()
    start = len(chosen.path) if chosen else 0
    named = [(".".join(entry.path[start:]), entry) for entry in entries]
    unique = list({_identity(entry): entry for entry in entries}.values())
    values = [*_values(checkpoint.tree, ()), *(Value(k, "metadata", v) for k, v in checkpoint.metadata.items())]
    roles = _elements_by_role(unique)
    return WeightsSummary(
        path=checkpoint.path, format=checkpoint.format, version=checkpoint.version, size=checkpoint.size, branch=chosen,
        alternatives=tuple(other for other in checkpoint.branches if chosen is None or other.path != chosen.path),
        tensors=len(entries),
        parameters=roles[PARAMETER], buffers=roles[BUFFER], undecided=roles[None],
        nbytes=sum(entry.nbytes for entry in unique),
        guessed=sum("by-name" in entry.flags for entry in entries),
        contents=_contents(checkpoint.tree),
        rows=name_rows(named, depth, all_tensors),
        dtypes=_dtypes(unique),
        devices=tuple(sorted({entry.device for entry in entries if entry.device})),
        shared=_shared(named),
        wasted_bytes=_wasted(checkpoint),
        optimizer_bytes=sum(c.nbytes for c in checkpoint.tree.children if "optim" in c.key.lower()),
        all_bytes=sum(storage.length for storage in checkpoint.storages.values()),
        values=tuple(values if all_tensors else values[:MOST_VALUES]),
        values_left_out=0 if all_tensors else max(0, len(values) - MOST_VALUES),
        globals=_globals(checkpoint),
        wrappers=checkpoint.wrappers if chosen == checkpoint.branch else (),
        findings=checkpoint.findings,
        flags=tuple(sorted(Counter(flag for entry in checkpoint.tensors for flag in entry.flags).items())),
        code=checkpoint.code,
        damaged=checkpoint.damaged,
    )  # fmt: skip


def _elements_by_role(entries: Sequence[TensorEntry]) -> Counter[str | None]:
    found: Counter[str | None] = Counter()
    for entry in entries:
        found[entry.role] += entry.numel
    return found


def _asked(checkpoint: Checkpoint, name: str) -> Branch:
    found = pick(checkpoint, name)
    if found is None:
        known = ", ".join(branch.name or "." for branch in checkpoint.branches) or "none"
        raise BadInput(f"{checkpoint.path} has no tensors under {name}", f"Branches of this file: {known}.")
    return found


def _identity(entry: TensorEntry) -> tuple[object, ...]:
    """Equal for two entries that are the same tensor."""
    if not entry.storage:
        return (entry.path,)
    return (entry.storage, entry.offset, entry.shape, entry.strides)


def _contents(tree: Item) -> tuple[Content, ...]:
    return tuple(
        Content(item.key, item.kind, item.type, item.length, item.tensors, item.nbytes)
        for item in tree.children
        if tree.kind in ("dict", "list", "tuple", "object")
    )


def _values(item: Item, above: tuple[str, ...]) -> Iterator[Value]:
    """The scalars of the tree in order. Its depth is bounded by the reader."""
    for child in item.children:
        path = (*above, child.key)
        if child.kind in ("dict", "list", "tuple", "set", "frozenset", "object", "module"):
            if child.children:
                yield from _values(child, path)
            elif child.tensors == 0:
                yield Value(".".join(path), child.kind, child.type if child.kind == "object" else child.length)
        elif child.kind != "deep":
            yield Value(".".join(path), child.kind, child.value)


def _dtypes(entries: Sequence[TensorEntry]) -> tuple[DtypeShare, ...]:
    groups: dict[str, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.dtype, []).append(entry)
    found = [
        DtypeShare(dtype, len(held), sum(entry.numel for entry in held), sum(entry.nbytes for entry in held))
        for dtype, held in groups.items()
    ]
    return tuple(sorted(found, key=lambda share: -share.nbytes))


def _shared(named: Sequence[tuple[str, TensorEntry]]) -> tuple[Shared, ...]:
    groups: dict[str, list[tuple[str, TensorEntry]]] = {}
    for name, entry in named:
        if entry.storage and entry.numel:
            groups.setdefault(entry.storage, []).append((name, entry))
    found = []
    for storage, held in groups.items():
        if len(held) > 1:
            tied = len({_identity(entry) for _, entry in held}) == 1
            found.append(Shared(storage, tuple(name for name, _ in held), held[0][1].storage_nbytes, tied))
    return tuple(found)


def _wasted(checkpoint: Checkpoint) -> int:
    """Bytes of storages that no tensor shows: a slice is saved with the whole tensor it was cut from."""
    seen: dict[str, int] = {}
    held: dict[str, int] = {}
    for entry in {_identity(entry): entry for entry in checkpoint.tensors}.values():
        if entry.storage and not entry.damaged:
            seen[entry.storage] = seen.get(entry.storage, 0) + entry.nbytes
            held[entry.storage] = entry.storage_nbytes
    return sum(max(0, held[key] - seen[key]) for key in held)


def _globals(checkpoint: Checkpoint) -> tuple[GlobalUse, ...]:
    order = {Verdict.DANGEROUS: 0, Verdict.UNKNOWN: 1, Verdict.HARMLESS: 2}
    found = [GlobalUse(g.spelled, verdict(g.module, g.name), g.count, g.called) for g in checkpoint.globals]
    return tuple(sorted(found, key=lambda use: (order[use.verdict], use.name)))


def _facts(result: WeightsSummary) -> tuple[Fact, ...]:
    version = f"version {result.version}" if result.version else ""
    facts = [Fact("Format", result.format, detail=version), Fact("Size", result.size, Unit.BYTES)]
    if result.branch is not None:
        facts.append(Fact("Model", result.branch.name or "the root", detail=result.branch.rule))
        facts.append(Fact("Tensors", result.tensors, Unit.COUNT, f"{size(result.nbytes)} in the model"))
        if result.parameters or not result.undecided:
            facts.append(Fact("Parameters", result.parameters, Unit.COUNT))
        if result.buffers:
            guess = "by name: the file does not say" if result.guessed else ""
            facts.append(Fact("Buffers", result.buffers, Unit.COUNT, guess))
        if result.undecided:
            facts.append(Fact("Elements", result.undecided, Unit.COUNT, "parameters, as far as names tell"))
    if result.optimizer_bytes and result.all_bytes:
        facts.append(Fact("Optimizer", result.optimizer_bytes, Unit.BYTES, "training state, not part of the model"))
    if result.wasted_bytes:
        facts.append(Fact("Wasted", result.wasted_bytes, Unit.BYTES, "in storages beyond the tensors cut from them"))
    if result.devices:
        facts.append(Fact("Saved on", ", ".join(result.devices)))
    return tuple(facts)


def _tensor_table(rows: Sequence[NameRow]) -> Table:
    columns = (
        Column("name", "Tensor"),
        Column("tensors", "Tensors", Unit.COUNT, priority=3),
        Column("shape", "Shape", Unit.SHAPE, priority=1),
        Column("dtype", "Dtype", priority=2),
        Column("numel", "Elements", Unit.COUNT),
        Column("nbytes", "Size", Unit.BYTES, priority=4),
        Column("role", "Role", priority=5),
    )
    return Table(columns, tuple(_tensor_row(row) for row in rows), tree=any(row.depth for row in rows), key="tensors")


def _tensor_row(row: NameRow) -> Row:
    marks = [f"x{len(row.copies) + 1}"] if row.copies else []
    marks += [FLAG_TEXT.get(flag, flag) for flag in row.flags if flag != "by-name"]
    label = f"{row.label} … {row.copies[-1]}" if row.copies else row.label
    role = f"{row.role} (by name)" if row.role and "by-name" in row.flags else row.role
    count = None if row.is_tensor else row.tensors
    cells = (label, count, row.shape, ", ".join(row.dtypes), row.numel, row.nbytes, role)
    return Row(cells, row.depth, ", ".join(marks), quiet=row.role == BUFFER)


def _contents_table(result: WeightsSummary) -> Table:
    columns = (
        Column("key", "Entry"),
        Column("kind", "Kind", priority=1),
        Column("length", "Length", Unit.COUNT, priority=2),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("nbytes", "Size", Unit.BYTES),
    )
    offered = {branch.path[0] for branch in result.alternatives if branch.path}
    chosen = result.branch.path[0] if result.branch and result.branch.path else None
    rows = []
    for content in result.contents if any(c.tensors for c in result.contents) else ():
        mark = "the model" if content.key == chosen else "another branch" if content.key in offered else ""
        kind = f"{content.kind} {content.type}".strip()
        rows.append(
            Row((content.key, kind, content.length or None, content.tensors or None, content.nbytes or None), mark=mark)
        )
    return Table(columns, tuple(rows), "Contents", key="contents")


def _dtype_table(result: WeightsSummary) -> Table:
    columns = (
        Column("dtype", "Dtype"),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("numel", "Elements", Unit.COUNT),
        Column("nbytes", "Size", Unit.BYTES),
    )
    rows = [Row((s.dtype, s.tensors, s.numel, s.nbytes)) for s in result.dtypes] if len(result.dtypes) > 1 else []
    return Table(columns, tuple(rows), "Dtypes", key="dtypes")


def _shared_table(result: WeightsSummary) -> Table:
    columns = (Column("names", "Tensors"), Column("nbytes", "Size", Unit.BYTES), Column("how", "How"))
    rows = []
    for shared in result.shared[:MOST_SHARED]:
        more = f" and {len(shared.names) - 4} more" if len(shared.names) > 4 else ""
        how = "the same tensor" if shared.tied else "views of one storage"
        rows.append(Row((", ".join(shared.names[:4]) + more, shared.nbytes, how)))
    return Table(columns, tuple(rows), "Shared storages", key="shared")


def _value_table(result: WeightsSummary) -> Table:
    columns = (Column("path", "Other value"), Column("value", "Value"), Column("kind", "Kind", priority=1))
    rows = [Row((value.path, _shown(value), value.kind), quiet=value.kind == "none") for value in result.values]
    return Table(columns, tuple(rows), "Other values", key="values")


def _shown(value: Value) -> str:
    text = f"{value.value:,} entries" if value.kind in ("dict", "list", "tuple", "set") else str(value.value)
    return text if len(text) <= CUT else f"{text[:CUT]}…"


def _global_table(result: WeightsSummary) -> Table:
    columns = (Column("name", "Would import"), Column("verdict", "Verdict"), Column("count", "Times", Unit.COUNT),
               Column("called", "Called", Unit.YESNO))  # fmt: skip
    told = [use for use in result.globals if use.verdict is not Verdict.HARMLESS]
    rows = [Row((use.name, use.verdict.value, use.count, use.called)) for use in told]
    return Table(columns, tuple(rows), "Names that unpickling this file would import; nothing was", key="globals")


def _notes(result: WeightsSummary) -> Iterator[Note]:
    for finding in result.findings:
        yield Note(f"{finding.text}.", Level.WARNING if finding.serious else Level.INFO)
    for flag, count in result.flags:
        if flag not in ("by-name", "non-persistent"):
            yield Note(f"{count:,} tensors: {FLAG_TEXT.get(flag, flag)}.", _level(flag))
    danger = [use.name for use in result.globals if use.verdict is Verdict.DANGEROUS]
    if danger:
        yield Note(
            f"Loading this file the ordinary way would run code: {', '.join(danger[:5])}. It was not run.",
            Level.WARNING,
        )
    elif any(use.verdict is Verdict.UNKNOWN for use in result.globals):
        yield Note("torch.load with weights_only=True refuses this file: it names classes that torch does not know.")
    if result.code:
        yield Note(f"The file holds {result.code}: loading it the ordinary way runs that. It was not run.")
    for wrapper in result.wrappers:
        yield Note(
            f"{wrapper.tensors:,} of {wrapper.total:,} names carry {wrapper.segment} ({wrapper.source}), "
            f"as {wrapper.example}; modelprobe repair {result.path} -o fixed.pth takes it out."
        )
    for branch in result.alternatives:
        yield Note(
            f"Another branch, {branch.rule}: {branch.name or 'the root'} ({branch.tensors:,} tensors); see --branch."
        )
    if result.values_left_out:
        yield Note(f"{result.values_left_out:,} other values are not shown; --all shows them.")


def _level(flag: str) -> Level:
    return Level.WARNING if flag in DAMAGE else Level.INFO
