"""What does a forward pass cost, where is the cost, and what was not counted?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from modelprobe.cost.data_dependent import CostBounds, bounds_table
from modelprobe.cost.rollup import Tally, by_module, fitting_depth, grouped, own, parameters_inside, tally
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table, plain
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact, labelled, scaled, size
from modelprobe.tracing.records import OpCall, Trace, Uncounted

By = Literal["module", "operator", "kind", "call"]

OWN = "(itself)"
"""The row of what a module computes outside its children, so that the rows below a module add up to it."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """One row: a module with everything inside it, an operator, a kind, or a module call.

    `share` is of the total MACs (of the total FLOPs when nothing is a MAC). `flops` are 2 per MAC and the rest.
    `same_as` names the first place of a module that stands at several; what it costs stands there.
    """

    name: str
    detail: str
    depth: int
    calls: int
    macs: int
    flops: int
    share: float
    parameters: int | None
    activations: int
    bytes_moved: int
    uncounted: int
    same_as: str = ""

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte moved."""
        return self.flops / self.bytes_moved if self.bytes_moved else None


@dataclass(frozen=True, slots=True)
class FlopsResult(Result):
    """The cost of one forward pass. MACs are multiply-accumulates of contractions; 1 MAC = 2 FLOPs."""

    model: str
    inputs: tuple[str, ...]
    macs: int
    flops: int
    elementwise_flops: int
    parameters: int
    activations: int
    bytes_read: int
    bytes_written: int
    operators: int
    counted: int
    free: int
    uncounted: tuple[Uncounted, ...]
    uncalled: tuple[str, ...]
    by: str
    depth: int | None
    tree: bool
    hidden: int
    rows: tuple[CostRow, ...]
    notes: tuple[Note, ...]
    ranges: tuple[CostBounds, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def least_macs(self) -> int:
        """MACs when every part that depends on the data has nothing to do."""
        return self.macs - sum(part.macs for part in self.ranges)

    @property
    def most_macs(self) -> int:
        """MACs when every part that depends on the data has as much to do as it may."""
        return self.least_macs + sum(part.most_macs for part in self.ranges)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets on average: all but those of the experts that it is not sent to."""
        return self.parameters - sum(part.parameters - part.active_parameters for part in self.ranges)

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the bounds where the cost depends on the data."""
        bounds = {key: getattr(self, key) for key in ("least_macs", "most_macs", "active_parameters")}
        return {**plain(self), **(bounds if self.ranges else {})}

    def report(self) -> Report:
        """Facts, the table, what depends on the data, what was not counted, and notes."""
        blocks: list[Block] = [Facts(_facts(self)), _table(self)]
        if self.ranges:
            blocks.append(bounds_table(self.ranges))
        if self.uncounted:
            blocks.append(uncounted_table(self.uncounted))
        return Report(
            f"{self.model}: cost of one forward pass",
            "modelprobe.flops/1",
            (*blocks, *_notes(self)),
            self.to_dict(),
            self.env,
        )


def count_flops(trace: Trace, *, by: By = "module", depth: int | None = None, top: int | None = None) -> FlopsResult:
    """The cost that `trace` recorded, by module (a tree to `depth`), operator, kind or module call.

    `top` keeps the dearest rows; of modules, the dearest that compute something themselves. Without `depth` a tree
    is shown as deep as about forty rows go.
    """
    everything = _RULES[by](trace) if top is None else _dearest(trace, by)
    shown_depth = depth
    if top is not None:
        rows = everything[:top]
    else:
        if depth is None and by in ("module", "call"):
            shown_depth = fitting_depth(row.depth for row in everything)
        rows = [row for row in everything if shown_depth is None or row.depth <= shown_depth]
    total = tally(trace.ops)
    return FlopsResult(
        model=_model(trace),
        inputs=_inputs(trace),
        macs=total.macs,
        flops=total.flops,
        elementwise_flops=total.flops - 2 * total.macs,
        parameters=trace.tree.parameter_count(),
        activations=total.activations,
        bytes_read=sum(op.bytes_read for op in trace.ops),
        bytes_written=sum(op.bytes_written for op in trace.ops),
        operators=total.ops,
        counted=sum(op.status == "counted" for op in trace.ops),
        free=sum(op.status == "free" for op in trace.ops),
        uncounted=trace.uncounted,
        uncalled=trace.uncalled,
        by=by,
        depth=shown_depth,
        tree=top is None and by in ("module", "call"),
        hidden=len(everything) - len(rows),
        rows=tuple(rows),
        notes=trace.notes,
        env=trace.env,
    )


def _model(trace: Trace) -> str:
    return str(trace.env.get("model", trace.tree.cls))


def _inputs(trace: Trace) -> tuple[str, ...]:
    described = trace.env.get("inputs")
    if described:
        return tuple(described)
    return tuple(f"{'x'.join(map(str, ref.shape)) or 'scalar'} {ref.dtype}" for ref in trace.inputs)


def _row(name: str, detail: str, depth: int, calls: int, cost: Tally, total: Tally, params: int | None) -> CostRow:
    share = cost.macs / total.macs if total.macs else cost.flops / total.flops if total.flops else 0.0
    return CostRow(
        name,
        detail,
        depth,
        calls,
        cost.macs,
        cost.flops,
        share,
        params,
        cost.activations,
        cost.bytes_moved,
        cost.uncounted,
    )


def _module_rows(trace: Trace) -> list[CostRow]:
    """The tree in pre-order. A module with children that computes something itself gets a row for that."""
    total, inside, direct = tally(trace.ops), by_module(trace), own(trace)
    parameters, calls = parameters_inside(trace.tree), trace.call_counts
    parents_of_something = {node.path.rpartition(".")[0] for node in trace.tree.modules if node.path}
    rows: list[CostRow] = []
    for node in trace.tree.modules:
        cost = inside.get(node.path, Tally())
        name, detail = node.name or _model(trace), node.cls
        row = _row(name, detail, node.depth, calls.get(node.path, 0), cost, total, parameters.get(node.path, 0))
        rows.append(replace(row, same_as=trace.tree.aliases.get(node.path, "")))
        mine = direct.get(node.path)
        if node.path in parents_of_something and mine is not None and mine.macs:
            rows.append(_row(OWN, "", node.depth + 1, calls.get(node.path, 0), mine, total, None))
    return rows


def _group_rows(trace: Trace, key: Callable[[OpCall], str], detail: Callable[[OpCall], str]) -> list[CostRow]:
    total = tally(trace.ops)
    rows = [
        _row(name, detail(ops[0]), 0, len(ops), tally(ops), total, None)
        for name, ops in grouped(trace.ops, key).items()
    ]
    return sorted(rows, key=lambda row: (-row.macs, -row.flops, -row.bytes_moved, row.name))


def _operator_rows(trace: Trace) -> list[CostRow]:
    return _group_rows(trace, lambda op: op.name, lambda op: op.kind)


def _kind_rows(trace: Trace) -> list[CostRow]:
    return _group_rows(trace, lambda op: op.kind, lambda op: op.status)


def _call_rows(trace: Trace) -> list[CostRow]:
    """Every call of a module in the order of execution, nested as they called each other."""
    total = tally(trace.ops)
    depths: list[int] = []
    rows: list[CostRow] = []
    for call in trace.calls:
        depths.append(depths[call.parent] + 1 if call.parent >= 0 else 0)
        cost = tally(trace.ops[call.first_op : call.end_op])
        name = (call.path or trace.tree.cls) + (f" #{call.number}" if trace.call_counts[call.path] > 1 else "")
        rows.append(_row(name, call.cls, depths[-1], 1, cost, total, None))
    return rows


_RULES: dict[str, Callable[[Trace], list[CostRow]]] = {
    "module": _module_rows,
    "operator": _operator_rows,
    "kind": _kind_rows,
    "call": _call_rows,
}


def _dearest(trace: Trace, by: By) -> list[CostRow]:
    """Rows by falling cost. Modules and calls are ranked by what they compute themselves, under their full paths."""
    if by in ("operator", "kind"):
        return _RULES[by](trace)
    classes = {node.path: node.cls for node in trace.tree.modules}
    if by == "module":
        return _group_rows(trace, lambda op: op.module or trace.tree.cls, lambda op: classes.get(op.module, ""))

    def label(op: OpCall) -> str:
        if op.call < 0:
            return trace.tree.cls
        call = trace.calls[op.call]
        return f"{call.path or trace.tree.cls} #{call.number}"

    return _group_rows(trace, label, lambda op: classes.get(op.module, ""))


def _facts(result: FlopsResult) -> tuple[Fact, ...]:
    moved = result.bytes_read + result.bytes_written
    facts = [
        Fact("Input", ", ".join(result.inputs) or "none"),
        Fact("MACs", result.macs, Unit.MACS, f"{exact(result.macs)} (conv, matmul, attention, recurrent)".strip()),
        Fact("FLOPs", result.flops, Unit.FLOPS, f"2 x MACs + {scaled(result.elementwise_flops)} elementwise"),
        *_range(result),
        Fact("Parameters", result.parameters, Unit.QUANTITY, exact(result.parameters)),
        *_active(result),
        Fact("Activations", result.activations, Unit.QUANTITY, "elements put out by the operators that have MACs"),
        Fact("Bytes moved", moved, Unit.BYTES, f"{size(result.bytes_read)} read, {size(result.bytes_written)} written"),
    ]
    if moved:
        facts.append(Fact("Intensity", result.flops / moved, Unit.RATIO, "FLOPs per byte"))
    return (*facts, Fact("Coverage", coverage(result)))


def _range(result: FlopsResult) -> Iterator[Fact]:
    if result.ranges:
        text = f"{scaled(result.least_macs)} to {scaled(result.most_macs)}"
        text += "MACs" if result.most_macs >= 1000 else " MACs"
        yield Fact("MACs range", text, detail="depends on the data: the parts stand below")


def _active(result: FlopsResult) -> Iterator[Fact]:
    if result.active_parameters != result.parameters:
        active = result.active_parameters
        yield Fact("Active params", active, Unit.QUANTITY, f"{exact(active)} that one token meets on average".strip())


def coverage(result: FlopsResult) -> str:
    """`175 operators counted, 0 not; 3 modules never ran`."""
    missing = sum(item.count for item in result.uncounted)
    counted, never = result.operators - missing, len(result.uncalled)
    operators = f"{counted} operator{'' if counted == 1 else 's'}"
    modules = f"{never} module{'' if never == 1 else 's'}"
    return f"{operators} counted, {missing} not; {modules} never ran"


_FIRST = {"module": "Module", "operator": "Operator", "kind": "Kind", "call": "Call"}
_SECOND = {"module": "Class", "operator": "Kind", "kind": "Status", "call": "Class"}


def _table(result: FlopsResult) -> Table:
    with_parameters = result.tree and result.by == "module"
    columns = [
        Column(result.by, _FIRST[result.by]),
        Column("detail", _SECOND[result.by], priority=2),
        *([] if result.by in ("module", "call") and result.tree else [Column("calls", "Ops", Unit.COUNT, priority=3)]),
        *([Column("parameters", "Params", Unit.QUANTITY, priority=3)] if with_parameters else []),
        Column("macs", "MACs", Unit.MACS),
        Column("share", "Share", Unit.SHARE, bar=True),
        Column("flops", "FLOPs", Unit.FLOPS, priority=1),
        Column("activations", "Activations", Unit.QUANTITY, priority=4),
        Column("bytes_moved", "Moved", Unit.BYTES, priority=5),
        Column("intensity", "FLOPs/B", Unit.RATIO, priority=6),
    ]
    keys = [column.key for column in columns[1:]]
    rows = tuple(
        Row(
            (row.name, *(getattr(row, key) for key in keys)),
            depth=row.depth if result.tree else 0,
            mark=_mark(row, result),
            quiet=row.flops == 0,
        )
        for row in result.rows
    )
    return Table(tuple(columns), rows, tree=result.tree)


def _mark(row: CostRow, result: FlopsResult) -> str:
    marks = []
    if row.uncounted:
        marks.append(f"{row.uncounted} uncounted")
    if row.same_as:
        marks.append(f"is {row.same_as}")
    if result.tree and result.by == "module" and row.name != OWN and row.calls > 1:
        marks.append(f"called x{row.calls}")
    return ", ".join(marks)


def uncounted_table(uncounted: tuple[Uncounted, ...]) -> Table:
    """The operators without a formula, how often they ran and at most what they cost."""
    columns = (
        Column("operator", "Not counted"),
        Column("count", "Calls", Unit.COUNT),
        Column("bound", "At most MACs", Unit.MACS),
        Column("modules", "Where", priority=1, wrap=True),
    )
    rows = tuple(Row((item.name, item.count, item.bound, some(item.modules, 3))) for item in uncounted)
    return Table(columns, rows, key="uncounted")


def some(paths: tuple[str, ...], limit: int) -> str:
    """The first of `paths`, and how many there are more."""
    shown = ", ".join(path or "(the model itself)" for path in paths[:limit])
    return shown if len(paths) <= limit else f"{shown}, and {len(paths) - limit} more"


def not_counted(uncounted: tuple[Uncounted, ...]) -> Note:
    """The warning that stands against a total with holes."""
    bound, missing = sum(item.bound for item in uncounted), sum(item.count for item in uncounted)
    return Note(
        f"{missing} operator calls have no formula and are not in the total; by their sizes they are at most "
        f"{labelled(bound, Unit.MACS)}. Give a formula with @modelprobe.formula.",
        Level.WARNING,
    )


def _notes(result: FlopsResult) -> list[Note]:
    notes = list(result.notes)
    if result.uncounted:
        notes.append(not_counted(result.uncounted))
    if result.uncalled:
        notes.append(Note(f"Never ran: {some(result.uncalled, 6)}.", Level.INFO))
    if result.hidden and result.tree:
        notes.append(Note(f"Shown to depth {result.depth}; {result.hidden} rows lie deeper (--depth).", Level.INFO))
    elif result.hidden:
        notes.append(Note(f"{result.hidden} more rows are not shown (--top).", Level.INFO))
    return notes
