"""The report of a weight file's summary: its facts, tables and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelprobe.checkpoint.answers.name_tree import NameRow
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.records import BUFFER, DAMAGE, FLAG_TEXT
from modelprobe.report.blocks import Column, Fact, Level, Note, Row, Table
from modelprobe.report.units import Unit, size

if TYPE_CHECKING:
    from modelprobe.checkpoint.answers.summary import Value, WeightsSummary

MAX_SHARED = 30
MAX_VALUE_LENGTH = 120


def facts(result: WeightsSummary) -> tuple[Fact, ...]:
    version = f"version {result.version}" if result.version else ""
    facts = [Fact("Format", result.format, detail=version), Fact("Size", result.size, Unit.BYTES)]
    if result.branch is not None:
        facts.append(Fact(model_label(result.branch.kind), result.branch.name or "the root", detail=result.branch.rule))
        facts.append(Fact("Tensors", result.tensors, Unit.COUNT, f"{size(result.nbytes)} in the model"))
        if result.parameters or not result.undecided:
            facts.append(Fact("Parameters", result.parameters, Unit.COUNT))
        if result.buffers:
            guess = "inferred from names" if result.guessed else ""
            facts.append(Fact("Buffers", result.buffers, Unit.COUNT, guess))
        if result.undecided:
            facts.append(Fact("Elements", result.undecided, Unit.COUNT, "parameters, inferred from names"))
    if result.adapter:
        facts.append(Fact("Adapter", "LoRA", detail=result.adapter))
    if result.adapter_base:
        facts.append(Fact("Base", result.adapter_base))
    if result.optimizer_bytes and result.all_bytes:
        facts.append(Fact("Optimizer", result.optimizer_bytes, Unit.BYTES, "training state, not part of the model"))
    if result.wasted_bytes:
        facts.append(Fact("Wasted", result.wasted_bytes, Unit.BYTES, "in storages that no tensor uses"))
    if result.devices:
        facts.append(Fact("Saved on", ", ".join(result.devices)))
    return tuple(facts)


def model_label(kind: str) -> str:
    """What the chosen branch is called: a table of data or a lone tensor is no model."""
    return {"object": "Object", "tensor": "Tensor"}.get(kind, "Model")


def tensor_table(rows: Sequence[NameRow]) -> Table:
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
    marks += [FLAG_TEXT.get(flag, flag) for flag in row.flags if flag not in ("by-name", "attributes")]
    label = f"{row.label} … {row.copies[-1]}" if row.copies else row.label
    role = f"{row.role} (by name)" if row.role and "by-name" in row.flags else row.role
    count = None if row.is_tensor else row.tensors
    cells = (label, count, row.shape, ", ".join(row.dtypes), row.numel, row.nbytes, role)
    return Row(cells, row.depth, ", ".join(marks), quiet=row.role == BUFFER)


def contents_table(result: WeightsSummary) -> Table:
    columns = (
        Column("key", "Entry"),
        Column("kind", "Kind", priority=1),
        Column("length", "Length", Unit.COUNT, priority=2),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("nbytes", "Size", Unit.BYTES),
    )
    offered = {branch.path[0] for branch in result.alternatives if branch.path}
    chosen = result.branch.path[0] if result.branch and result.branch.path else None
    kind_of_branch = result.branch.kind if result.branch else ""
    rows = []
    for content in result.contents if any(c.tensors for c in result.contents) else ():
        mark = (
            f"the {model_label(kind_of_branch).lower()}"
            if content.key == chosen
            else "another branch"
            if content.key in offered
            else ""
        )
        kind = f"{content.kind} {content.type}".strip()
        rows.append(
            Row((content.key, kind, content.length or None, content.tensors or None, content.nbytes or None), mark=mark)
        )
    return Table(columns, tuple(rows), "Contents", key="contents")


def dtype_table(result: WeightsSummary) -> Table:
    columns = (
        Column("dtype", "Dtype"),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("numel", "Elements", Unit.COUNT),
        Column("nbytes", "Size", Unit.BYTES),
    )
    rows = [Row((s.dtype, s.tensors, s.numel, s.nbytes)) for s in result.dtypes] if len(result.dtypes) > 1 else []
    return Table(columns, tuple(rows), "Dtypes", key="dtypes")


def shared_table(result: WeightsSummary) -> Table:
    columns = (Column("names", "Tensors"), Column("nbytes", "Size", Unit.BYTES), Column("how", "How"))
    rows = []
    for shared in result.shared[:MAX_SHARED]:
        more = f" and {len(shared.names) - 4} more" if len(shared.names) > 4 else ""
        how = "the same tensor" if shared.tied else "views of one storage"
        rows.append(Row((", ".join(shared.names[:4]) + more, shared.nbytes, how)))
    return Table(columns, tuple(rows), "Shared storages", key="shared")


def value_table(result: WeightsSummary) -> Table:
    columns = (Column("path", "Entry"), Column("value", "Value"), Column("kind", "Kind", priority=1))
    rows = [Row((value.path, _shown_value(value), value.kind), quiet=value.kind == "none") for value in result.values]
    return Table(columns, tuple(rows), "Other entries", key="values")


def _shown_value(value: Value) -> str:
    text = f"{value.value:,} entries" if value.kind in ("dict", "list", "tuple", "set") else str(value.value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"


def global_table(result: WeightsSummary) -> Table:
    columns = (Column("name", "Imports"), Column("trust", "Trust"), Column("count", "Times", Unit.COUNT),
               Column("called", "Called", Unit.YESNO))  # fmt: skip
    told = [use for use in result.globals if use.trust is not Trust.HARMLESS]
    rows = [Row((use.name, use.trust.value, use.count, use.called)) for use in told]
    return Table(columns, tuple(rows), "Imports of this file, none of which was executed", key="globals")


def notes(result: WeightsSummary) -> Iterator[Note]:
    for finding in result.findings:
        yield Note(f"{finding.text}.", Level.WARNING if finding.serious else Level.INFO)
    for flag, count in result.flags:
        if flag not in ("by-name", "non-persistent"):
            many = "1 tensor" if count == 1 else f"{count:,} tensors"
            yield Note(f"{many}: {FLAG_TEXT.get(flag, flag)}.", _level(flag))
    danger = [use.name for use in result.globals if use.trust is Trust.DANGEROUS]
    if danger:
        yield Note(
            f"Loading this file with plain pickle would execute code: {', '.join(danger[:5])}. Nothing was executed.",
            Level.WARNING,
        )
    elif result.refused:
        more = f" and {len(result.refused) - 3} more" if len(result.refused) > 3 else ""
        line = f"`{result.allowing}` makes it take them; " if result.allowing else ""
        name = Path(result.path)
        yield Note(
            f"torch.load refuses this file with weights_only=True, its default: it imports "
            f"{', '.join(result.refused[:3])}{more}. {line}"
            f"`modelprobe convert {name} -o {name.stem}.safetensors` makes it unnecessary."
        )
    if result.code:
        yield Note(f"The file holds {result.code}: loading it executes that. Nothing was executed.")
    for wrapper in result.wrappers:
        yield Note(
            f"{wrapper.tensors:,} of {wrapper.total:,} names {'are prefixed with' if wrapper.leading else 'contain'} "
            f"`{wrapper.segment}.` ({wrapper.source}), such as {wrapper.example}; "
            f"modelprobe repair {result.path} -o fixed.pth strips it."
        )
    for branch in result.alternatives:
        yield Note(
            f"Another branch, {branch.rule}: {branch.name or 'the root'} ({branch.tensors:,} tensors); see --branch."
        )
    if result.rows_left_out:
        yield Note(f"{result.rows_left_out:,} more rows are not shown; --all lists every tensor.")
    if result.values_left_out:
        yield Note(f"{result.values_left_out:,} other entries are not shown; --all lists them.")


def _level(flag: str) -> Level:
    return Level.WARNING if flag in DAMAGE else Level.INFO
