"""The report of `modelprobe trace`: every operator of a forward pass in order, with shapes, dtypes and costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from modelprobe.cost.rollup import input_texts, model_name
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.records import OpCall, OperatorValues, TensorRef, Trace


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """One call of an operator. `inputs` and `outputs` are texts of shape and dtype; `index` is its place in the run.

    `reads` are the indices of the operators whose results it takes. `status` is counted, free or uncounted. `device` is
    that of the result in a run for real, else that of the run: meta.
    """

    index: int
    operator: str
    kind: str
    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[int, ...]
    macs: int
    flops: int
    bytes_moved: int
    status: str
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    not_finite: int | None = None
    said: str = ""
    line: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class OperatorList(Result):
    """The operators that were asked for, of `total` that ran. `measured`: their values are known."""

    model: str
    inputs: tuple[str, ...]
    total: int
    operators: tuple[OperatorRow, ...]
    notes: tuple[Note, ...]
    measured: bool = False
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """A row for each operator."""
        columns = (
            Column("index", "#", Unit.COUNT),
            Column("operator", "Operator"),
            Column("module", "Module"),
            Column("inputs", "Inputs", priority=2),
            Column("outputs", "Outputs"),
            Column("macs", "MACs", Unit.MACS),
            Column("flops", "FLOPs", Unit.FLOPS, priority=3),
            Column("bytes_moved", "Moved", Unit.BYTES, priority=1),
            Column("status", "Counted", priority=4),
            Column("device", "Device", priority=5),
            *(VALUE_COLUMNS if self.measured else ()),
        )
        rows = tuple(
            Row((
                row.index, row.operator, row.module, _short(row.inputs), _short(row.outputs), row.macs,
                row.flops, row.bytes_moved, row.status, row.device,
                *((row.minimum, row.maximum, row.mean, row.said) if self.measured else ()),
            ))
            for row in self.operators
        )  # fmt: skip
        shown = "" if len(rows) == self.total else f"{len(rows)} shown"
        facts = (
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Operators", self.total, Unit.COUNT, shown),
            Fact("MACs", sum(row.macs for row in self.operators), Unit.MACS, "of those shown" if shown else ""),
        )
        return self.blocks_report(
            f"{self.model}: operators of one forward pass", "modelprobe.trace/1", Facts(facts),
            Table(columns, rows, key="operators"), *_surprise_notes(self.operators), *self.notes,
        )  # fmt: skip


VALUE_COLUMNS = (
    Column("minimum", "Min", Unit.NUMBER),
    Column("maximum", "Max", Unit.NUMBER),
    Column("mean", "Mean", Unit.NUMBER, priority=1),
    Column("said", "Surprise", priority=3),
)


def _surprise_notes(rows: Iterable[OperatorRow]) -> Iterator[Note]:
    for row in rows:
        if row.said:
            where = f"{row.operator} in {row.module}" if row.module else row.operator
            at = f", called at {row.line}" if row.line else ""
            many = f"; {row.not_finite:,} values are not finite" if row.not_finite else ""
            yield Note(f"#{row.index} {where}: {row.said}{many}{at}.", Level.WARNING)


def operators_of(
    trace: Trace,
    modules: Sequence[str] = (),
    names: Sequence[str] = (),
    values: Mapping[int, OperatorValues] | None = None,
) -> OperatorList:
    """The operators in modules and of names that match the patterns; all without. Raises BadInput for no match.

    A module's pattern stands for everything inside it; a name may leave out `aten.`. `values` are what operators put
    out, by their place in the run.
    """
    rows = tuple(
        row
        for row in _listed_operators(trace, values or {})
        if (not modules or _matches_module(row.module, modules)) and (not names or _matches_name(row.operator, names))
    )
    if trace.ops and not rows:
        asked = ", ".join((*modules, *names))
        raise BadInput(f"no operator of the run matches {asked}", "without --module and --operator all are listed")
    notes = trace.notes if trace.ops else (*trace.notes, Note("No operator ran.", Level.WARNING))
    return OperatorList(
        model_name(trace), tuple(input_texts(trace)), len(trace.ops), rows, notes, values is not None, trace.env
    )


def _listed_operators(trace: Trace, values: Mapping[int, OperatorValues]) -> Iterator[OperatorRow]:
    made: dict[int, int] = {}
    unmeasured = OperatorValues(None, None, None, None, "", "", str(trace.env.get("device", "")))
    for index, op in enumerate(trace.ops):
        reads = dict.fromkeys(made[ref.value] for ref in op.inputs if ref.value in made)
        yield OperatorRow(
            index, op.name, op.kind, op.module, _tensor_texts(op.inputs), _tensor_texts(op.outputs), tuple(reads),
            op.macs, 2 * op.macs + op.flops, _bytes_moved(op), op.status, *values.get(index, unmeasured),
        )  # fmt: skip
        made.update((ref.value, index) for ref in op.outputs)


def _tensor_texts(refs: Iterable[TensorRef]) -> tuple[str, ...]:
    return tuple(f"{'x'.join(map(str, ref.shape)) or 'scalar'} {ref.dtype}" for ref in refs)


def _short(texts: Iterable[str]) -> str:
    """float32 goes without saying."""
    return ", ".join(text.removesuffix(" float32") for text in texts)


def _bytes_moved(op: OpCall) -> int:
    return op.bytes_read + op.bytes_written


def _matches_module(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*") for pattern in patterns)


def _matches_name(name: str, patterns: Sequence[str]) -> bool:
    bare = name.partition(".")[2]
    return any(fnmatchcase(one, pattern) for one in (name, bare, bare.partition(".")[0]) for pattern in patterns)
