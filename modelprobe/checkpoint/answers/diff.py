"""The differences between two weight files: names, shapes and dtypes, values, and other entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from modelprobe.checkpoint.adapters.lora import Lora, describe
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.checkpoint.values.compare import (
    NAME,
    VALUES,
    Measured,
    Pair,
    ValueChange,
    measure,
    other_values,
    outside_branches,
    pair_up,
)
from modelprobe.checkpoint.values.sides import Sides, open_sides
from modelprobe.checkpoint.write.extras import NotKept
from modelprobe.checkpoint.write.tensor import TensorToWrite
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, shape

IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"
RESHAPED, REMOVED, ADDED = "reshaped", "removed", "added"
NOT_ONE = "1 entry was not compared"
MAX_DIFF_ROWS = 30


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two files: its path and format, the branch that was compared, its tensors and elements.

    `adapter` describes a LoRA; beside a file that is none, its tensors are those of its base with it added.
    """

    path: str
    format: str
    branch: str
    tensors: int
    numel: int
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """One tensor. `status` is one of identical, within tolerance, different, reshaped, removed, added.

    `other` is its name in the second file, `found` how a renamed one was recognized. `values` is None where there is
    nothing to compare it with.
    """

    name: str
    other: str
    status: str
    found: str
    shape: tuple[int, ...] | None
    other_shape: tuple[int, ...] | None
    dtype: str
    other_dtype: str
    values: Measured | None = None

    @property
    def renamed(self) -> bool:
        """Whether it goes by another name in the second file."""
        return bool(self.found)

    @property
    def retyped(self) -> bool:
        """Whether both files have it, with different dtypes."""
        return bool(self.dtype and self.other_dtype) and self.dtype != self.other_dtype


@dataclass(frozen=True, slots=True)
class WeightsDiff(Result):
    """What separates two weight files. `differ` is about tensors alone: entries that are none do not decide it.

    `not_compared` are, of either file, tensors that no state dict has and the other file lacks, unused storages, and
    tensors outside the branches that are not the same in both.
    """

    a: Side
    b: Side
    tolerance: float
    tensors: tuple[TensorDiff, ...]
    others: tuple[ValueChange, ...]
    top: int
    not_compared: tuple[tuple[NotKept, ...], tuple[NotKept, ...]] = ((), ())

    @property
    def counts(self) -> Mapping[str, int]:
        """Tensors by status."""
        return Counter(tensor.status for tensor in self.tensors)

    @property
    def differ(self) -> bool:
        """Whether any name, shape or dtype differs, or any value by more than the tolerance."""
        scaled = bool(self.a.adapter and self.b.adapter) and self.a.adapter != self.b.adapter
        return scaled or any(t.status not in (IDENTICAL, WITHIN) or t.renamed or t.retyped for t in self.tensors)

    def report(self) -> Report:
        """Both files, the verdict, structure, values, other entries."""
        tables = [table for table in (_structure_table(self), _values_table(self), _extras_table(self)) if table.rows]
        data = {**self.to_dict(), "differ": self.differ, "counts": dict(self.counts)}
        blocks: tuple[Block, ...] = (_diff_facts(self), *tables, *_diff_notes(self))
        title = f"{self.a.path} and {self.b.path}"
        return Report(title, "modelprobe.diff/1", blocks, data, data_table=_every_tensor(self))


def diff_weights(
    a: str, b: str, *, branches: Sequence[str] = (), tolerance: float = 0.0, top: int | None = None
) -> WeightsDiff:
    """Compare two weight files. `branches`: none, one for both, or one for each. Raises BadInput."""
    first, second = open_checkpoint(a), open_checkpoint(b)
    with ExitStack() as stack:
        sides = open_sides(first, second, stack, branches)
        pairs, removed, added = pair_up(sides)
        tensors = [_tensor_diff(sides, pair, tolerance) for pair in pairs]
    tensors += [_lone(sides.left[name], REMOVED) for name in removed]
    tensors += [_lone(sides.right[name], ADDED) for name in added]
    left = _side(first, sides.a.name, sides.left, sides.adapters[0])
    right = _side(second, sides.b.name, sides.right, sides.adapters[1])
    others = tuple(other_values(first, second))
    lacking = (*sides.not_compared[0], *outside_branches(first, sides.a, second, sides.b)), sides.not_compared[1]
    return WeightsDiff(left, right, tolerance, tuple(tensors), others, top or MAX_DIFF_ROWS, lacking)


def _side(found: Checkpoint, branch: str, tensors: Mapping[str, TensorToWrite], lora: Lora | None) -> Side:
    numel = sum(tensor.numel for tensor in tensors.values())
    return Side(found.path, found.format, branch, len(tensors), numel, "" if lora is None else describe(lora))


def _tensor_diff(sides: Sides, pair: Pair, tolerance: float) -> TensorDiff:
    a, b = sides.left[pair.name], sides.right[pair.other]
    values = None
    if a.shape != b.shape:
        status = RESHAPED
    else:
        values = measure(a, b, tolerance)
        same = values.equal == values.numel
        status = IDENTICAL if same else DIFFERENT if values.beyond else WITHIN
    return TensorDiff(pair.name, pair.other, status, pair.found, a.shape, b.shape, a.dtype, b.dtype, values)


def _lone(tensor: TensorToWrite, status: str) -> TensorDiff:
    if status == REMOVED:
        return TensorDiff(tensor.name, "", status, "", tensor.shape, None, tensor.dtype, "")
    return TensorDiff("", tensor.name, status, "", None, tensor.shape, "", tensor.dtype)


def _diff_facts(result: WeightsDiff) -> Facts:
    counts = result.counts
    items = [Fact(label, side.path, detail=_side_in_words(side)) for label, side in (("A", result.a), ("B", result.b))]
    lacking = sum(map(len, result.not_compared))
    detail = "" if not lacking else f"{lacking:,} entries were not compared" if lacking > 1 else NOT_ONE
    items.append(
        Fact("Result", "different" if result.differ else "identical", detail=detail, tone=Tone.of(not result.differ))
    )
    items += [Fact(status.capitalize(), counts[status], Unit.COUNT) for status in _ORDER if counts.get(status)]
    renamed, retyped = sum(t.renamed for t in result.tensors), sum(t.retyped for t in result.tensors)
    items += [Fact(label, n, Unit.COUNT) for label, n in (("Renamed", renamed), ("Retyped", retyped)) if n]
    return Facts(tuple(items))


def _side_in_words(side: Side) -> str:
    adapter = f", LoRA ({side.adapter})" if side.adapter else ""
    return f"{side.format}, {side.branch or 'the root'}, {side.tensors:,} tensors{adapter}"


_ORDER = (IDENTICAL, WITHIN, DIFFERENT, RESHAPED, REMOVED, ADDED)


def _structure_table(result: WeightsDiff) -> Table:
    columns = (
        Column("name", "A"),
        Column("other", "B"),
        Column("what", "Change", wrap=True),
        Column("shape", "Shape", priority=1),
        Column("dtype", "Dtype", priority=2),
    )
    found = [t for t in result.tensors if _what(t)]
    rows = tuple(
        Row(
            (t.name, t.other, _what(t), _change(_shapes_in_words(t)), _change((t.dtype, t.other_dtype))),
            tone={ADDED: Tone.GOOD, REMOVED: Tone.BAD}.get(t.status),
        )
        for t in found
    )
    return Table(columns, rows[: result.top], "Structure", key="structure")


def _every_tensor(result: WeightsDiff) -> Table:
    """All tensors of both files, whatever was found."""
    columns = (
        Column("name", "A"), Column("other", "B"), Column("status", "Status"), Column("found", "Found by"),
        Column("shape", "Shape (A)", Unit.SHAPE), Column("other_shape", "Shape (B)", Unit.SHAPE),
        Column("dtype", "Dtype (A)"), Column("other_dtype", "Dtype (B)"),
        *(Column(key, key, Unit.NUMBER) for key in ("max_abs", "max_rel", "cosine", "norm_a", "norm_b")),
        Column("changed", "Changed", Unit.COUNT), Column("numel", "Elements", Unit.COUNT),
    )  # fmt: skip
    rows = []
    for tensor in result.tensors:
        own = tuple(getattr(tensor, column.key) for column in columns[:8])
        values = tensor.values
        measured: tuple[Cell, ...] = (None,) * 7
        if values is not None:
            numbers = (values.max_abs, values.max_rel, values.cosine, values.norm_a, values.norm_b)
            measured = (*numbers, values.numel - values.equal, values.numel)
        rows.append(Row((*own, *measured)))
    return Table(columns, tuple(rows), key="tensors")


def _what(tensor: TensorDiff) -> str:
    parts = ["renamed"] if tensor.renamed else []
    parts += [tensor.status] if tensor.status in (RESHAPED, REMOVED, ADDED) else []
    parts += ["retyped"] if tensor.retyped else []
    return ", ".join(parts)


def _shapes_in_words(tensor: TensorDiff) -> tuple[str, str]:
    first = "" if tensor.shape is None else shape(tensor.shape)
    return first, "" if tensor.other_shape is None else shape(tensor.other_shape)


def _change(sides: tuple[str, str]) -> str:
    first, second = sides
    return first or second if first == second or not (first and second) else f"{first} -> {second}"


def _values_table(result: WeightsDiff) -> Table:
    columns = (
        Column("name", "Tensor"),
        Column("max_abs", "Max diff"),
        Column("max_rel", "Relative", priority=2),
        Column("cosine", "Cosine", priority=1),
        Column("norm_a", "Norm (A)", priority=3),
        Column("norm_b", "Norm (B)", priority=4),
        Column("changed", "Changed", Unit.COUNT),
        Column("numel", "Elements", Unit.COUNT, priority=5),
    )
    found = [t for t in result.tensors if t.status in (DIFFERENT, WITHIN) and t.values is not None]
    found.sort(key=_gravity)
    rows = tuple(Row(_value_cells(t, t.values), mark=_value_mark(t)) for t in found if t.values is not None)
    return Table(columns, rows[: result.top], "Values", key="values")


def _gravity(tensor: TensorDiff) -> tuple[bool, int, float]:
    """Beyond the tolerance first, then by how far apart."""
    values = tensor.values
    return tensor.status != DIFFERENT, -(values.unbounded if values else 0), -(values.max_rel if values else 0)


def _value_cells(tensor: TensorDiff, values: Measured) -> tuple[Cell, ...]:
    cosine = None if values.cosine is None else f"{values.cosine:.6f}"
    numbers = (f"{values.max_abs:.4g}", f"{values.max_rel:.4g}", cosine, f"{values.norm_a:.5g}", f"{values.norm_b:.5g}")
    return (tensor.name, *numbers, values.numel - values.equal, values.numel)


def _value_mark(tensor: TensorDiff) -> str:
    if tensor.values is not None and tensor.values.unbounded:
        return f"{tensor.values.unbounded:,} NaN or infinite"
    return tensor.status if tensor.status == WITHIN else ""


def _extras_table(result: WeightsDiff) -> Table:
    columns = (Column("path", "Entry"), Column("before", "A"), Column("after", "B"))
    rows = tuple(Row((o.path, _one_line_value(o.before), _one_line_value(o.after))) for o in result.others)
    return Table(columns, rows[: result.top], "Other entries", key="others")


def _one_line_value(text: str | None) -> str | None:
    return text if text is None or len(text) <= 80 else f"{text[:79]}…"


def _diff_notes(result: WeightsDiff) -> list[Note]:
    notes = []
    hidden = sum(1 for t in result.tensors if t.status in (DIFFERENT, WITHIN)) - result.top
    if hidden > 0:
        notes.append(Note(f"{hidden:,} more tensors differ less in value; --top shows more, -f json all."))
    hidden = sum(1 for t in result.tensors if _what(t)) - result.top
    if hidden > 0:
        notes.append(Note(f"{hidden:,} more tensors differ in structure; --top shows more, -f json all."))
    notes += [*_rename_notes(result), *_pattern(result)]
    unbounded = sum(t.values.unbounded for t in result.tensors if t.values is not None)
    if unbounded:
        notes.append(Note(f"NaN or infinite on one side only: {unbounded:,} elements.", Level.WARNING))
    if bool(result.a.adapter) != bool(result.b.adapter):
        changed = sum(1 for t in result.tensors if t.status not in (IDENTICAL, WITHIN))
        many = "nothing" if not changed else "1 tensor" if changed == 1 else f"{changed:,} tensors"
        notes.append(Note(f"The adapter changes {many} of its base; the weights with it added were compared."))
    notes += [note for side, held in zip("AB", result.not_compared, strict=True) for note in _uncompared(side, held)]
    if result.others:
        notes.append(
            Note(f"{len(result.others):,} entries other than tensors differ too; they do not count as a difference.")
        )
    return notes


def _uncompared(side: str, held: Sequence[NotKept]) -> list[Note]:
    """What of one file has nothing to be compared with."""
    if not held:
        return []
    many = "1 entry" if len(held) == 1 else f"{len(held):,} entries"
    return [Note(f"Not compared, {many} of {side}: {held[0].path} ({held[0].why}).", Level.WARNING)]


def _rename_notes(result: WeightsDiff) -> list[Note]:
    """How the renamed tensors were recognized."""
    ways = Counter(tensor.found for tensor in result.tensors if tensor.renamed)
    told = {VALUES: "their values are equal", NAME: "their names end alike, and the shapes are the same"}
    return [Note(f"{count:,} renamed tensors found: {told[way]}.") for way, count in ways.items()]


def _pattern(result: WeightsDiff) -> list[Note]:
    """What all renamed tensors have in common, if it is a leading part of the name."""
    renamed = [t for t in result.tensors if t.renamed]
    for first, second, verb in (("name", "other", "gained"), ("other", "name", "lost")):
        heads = {_added_prefix(getattr(t, first), getattr(t, second)) for t in renamed}
        if len(renamed) > 1 and len(heads) == 1 and None not in heads:
            return [Note(f"All {len(renamed):,} renamed tensors {verb} the `{heads.pop()}` prefix.")]
    return []


def _added_prefix(short: str, long: str) -> str | None:
    return long[: -len(short)] if long.endswith(f".{short}") else None
