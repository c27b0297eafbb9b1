"""What would another tool say that this model costs, where, and why does it differ?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.conventions import find_convention
from modelprobe.cost.conventions.convention import ToolCount
from modelprobe.cost.rollup import by_module, fitting_depth, grouped, parameters_inside, tally
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, scaled
from modelprobe.tracing.records import Trace, parents

_UNITS = {"MACs": Unit.MACS, "FLOPs": Unit.FLOPS}


@dataclass(frozen=True, slots=True)
class ConventionRow:
    """A module with everything inside it, an operator (or class, as the tool looks), a kind, or a module call.

    `amount` is the tool's figure, `own_macs` modelprobe's for the same, None where the tool divides differently.
    """

    name: str
    detail: str
    depth: int
    amount: float
    share: float
    activations: int
    parameters: int | None
    own_macs: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What the tool counts of a kind of operator, in MACs, beside modelprobe's own MACs."""

    kind: str
    counted: float
    own: int

    @property
    def difference(self) -> float:
        """The tool's figure less modelprobe's."""
        return self.counted - self.own


@dataclass(frozen=True, slots=True)
class ConventionCost(Result):
    """The cost of one forward pass as a tool counts it. `total` is the tool's own integer, in its own unit.

    `macs` is the same in MACs, `own_macs` modelprobe's figure. `activations` is None for tools that count none.
    """

    model: str
    inputs: tuple[str, ...]
    convention: str
    follows: str
    unit: str
    total: int
    macs: float
    activations: int | None
    own_macs: int
    parameters: int
    differences: tuple[Difference, ...]
    by: str
    depth: int | None
    tree: bool
    hidden: int
    rows: tuple[ConventionRow, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Facts, the table in the tool's own unit, the difference by kind, notes."""
        notes = (*self.notes, *_own_notes(self))
        blocks: tuple[Block, ...] = (Facts(_facts(self)), _table(self), _difference_table(self), *notes)
        title = f"{self.model}: cost of one forward pass as {self.convention} counts it"
        return Report(title, "modelprobe.flops-convention/1", blocks, self.to_dict(), self.env)


def count_by_convention(
    trace: Trace, convention: str, *, by: str = "module", depth: int | None = None, top: int | None = None
) -> ConventionCost:
    """The cost that `trace` recorded as the tool of that name would state it, to its own integer.

    Rows are as in `count_flops`: modules or calls (a tree to `depth`), operators or kinds; `top` keeps the dearest.
    """
    rules = find_convention(convention)
    found = rules.count(trace)
    everything = _rows(trace, found, by) if top is None else _dearest(trace, found, by)
    if top is not None:
        shown, rows = depth, everything[:top]
    else:
        shown = fitting_depth(row.depth for row in everything) if depth is None else depth
        rows = [row for row in everything if row.depth <= shown]
    said = tuple(Note(text, Level.INFO) for text in found.notes)
    return ConventionCost(
        model=str(trace.env.get("model", trace.tree.cls)),
        inputs=tuple(trace.env.get("inputs", ()))
        or tuple(f"{'x'.join(map(str, ref.shape)) or 'scalar'} {ref.dtype}" for ref in trace.inputs),
        convention=convention,
        follows=rules.follows,
        unit=rules.amount,
        total=found.total,
        macs=_in_macs(found.total, rules.per_mac),
        activations=found.activations if rules.activations else None,
        own_macs=trace.macs,
        parameters=trace.tree.parameter_count(),
        differences=_differences(trace, found, rules.per_mac),
        by=by,
        depth=shown,
        tree=top is None and by in ("module", "call"),
        hidden=len(everything) - len(rows),
        rows=tuple(rows),
        notes=(*trace.notes, *said),
        env=trace.env,
    )


def _rows(trace: Trace, found: ToolCount, by: str) -> list[ConventionRow]:
    if by == "module":
        return _module_rows(trace, found)
    return _call_rows(trace, found) if by == "call" else _group_rows(trace, found, by)


def _dearest(trace: Trace, found: ToolCount, by: str) -> list[ConventionRow]:
    """Rows by falling cost; modules and calls by what is counted at them alone, under their full paths."""
    if by in ("operator", "kind"):
        return _rows(trace, found, by)
    classes = {node.path: node.cls for node in trace.tree.modules}
    own = {path: tally(ops).macs for path, ops in grouped(trace.ops, lambda op: op.module).items()}
    made: dict[str, int] = {}
    for item in found.items:
        made[item.module] = made.get(item.module, 0) + item.activations
    rows = [
        ConventionRow(
            path or trace.tree.cls,
            classes.get(path, ""),
            0,
            amount,
            _share(amount, found),
            made[path],
            None,
            own.get(path, 0),
        )
        for path, amount in found.by(lambda item: item.module).items()
    ]
    return sorted(rows, key=lambda row: (-row.amount, row.name))


def _share(amount: float, found: ToolCount) -> float:
    return amount / found.total if found.total else 0.0


def _module_rows(trace: Trace, found: ToolCount) -> list[ConventionRow]:
    amounts: dict[str, float] = {}
    activations: dict[str, int] = {}
    for item in found.items:
        for place in (item.module, *parents(item.module)):
            amounts[place] = amounts.get(place, 0) + item.amount
            activations[place] = activations.get(place, 0) + item.activations
    own, below = by_module(trace), parameters_inside(trace.tree)
    rows = []
    for node in trace.tree.modules:
        path, amount = node.path, amounts.get(node.path, 0)
        name = node.name or str(trace.env.get("model", trace.tree.cls))
        macs = own[path].macs if path in own else 0
        made, size = activations.get(path, 0), below.get(path, 0)
        rows.append(ConventionRow(name, node.cls, node.depth, amount, _share(amount, found), made, size, macs))
    return rows


def _call_rows(trace: Trace, found: ToolCount) -> list[ConventionRow]:
    amounts, activations = [0.0] * len(trace.calls), [0] * len(trace.calls)
    for item in found.items:
        number = item.call
        while number >= 0:
            amounts[number] += item.amount
            activations[number] += item.activations
            number = trace.calls[number].parent
    rows: list[ConventionRow] = []
    for number, call in enumerate(trace.calls):
        depth = rows[call.parent].depth + 1 if call.parent >= 0 else 0
        name = (call.path or trace.tree.cls) + (f" #{call.number}" if trace.call_counts[call.path] > 1 else "")
        macs = tally(trace.ops[call.first_op : call.end_op]).macs
        share = _share(amounts[number], found)
        rows.append(ConventionRow(name, call.cls, depth, amounts[number], share, activations[number], None, macs))
    return rows


def _group_rows(trace: Trace, found: ToolCount, by: str) -> list[ConventionRow]:
    kinds = {item.name: item.kind for item in found.items}
    own = {kind: tally(ops).macs for kind, ops in grouped(trace.ops, lambda op: op.kind).items()}
    activations: dict[str, int] = {}
    for item in found.items:
        key = item.name if by == "operator" else item.kind
        activations[key] = activations.get(key, 0) + item.activations
    rows = []
    for name, amount in found.by(lambda item: item.name if by == "operator" else item.kind).items():
        detail, macs = (kinds[name], None) if by == "operator" else ("", own.get(name, 0))
        rows.append(ConventionRow(name, detail, 0, amount, _share(amount, found), activations[name], None, macs))
    return sorted(rows, key=lambda row: (-row.amount, row.name))


def _differences(trace: Trace, found: ToolCount, per_mac: int) -> tuple[Difference, ...]:
    """By kind of operator, the greatest difference first; kinds that neither counts are left out."""
    counted = found.by(lambda item: item.kind)
    own = {kind: tally(ops).macs for kind, ops in grouped(trace.ops, lambda op: op.kind).items()}
    rows = [Difference(kind, _in_macs(counted.get(kind, 0), per_mac), own.get(kind, 0)) for kind in {**own, **counted}]
    return tuple(sorted((row for row in rows if row.counted or row.own), key=lambda row: -abs(row.difference)))


def _in_macs(amount: float, per_mac: int) -> float:
    return amount / per_mac if per_mac > 1 else amount


def _facts(cost: ConventionCost) -> tuple[Fact, ...]:
    ratio = cost.macs / cost.own_macs if cost.own_macs else 0.0
    facts = [
        Fact("Input", ", ".join(cost.inputs) or "none"),
        Fact("Convention", cost.convention, detail=f"follows {cost.follows}, which is not run"),
        Fact(cost.unit, cost.total, _UNITS.get(cost.unit, Unit.QUANTITY), f"{cost.total:,}"),
        Fact(
            "modelprobe", cost.own_macs, Unit.MACS, f"{cost.own_macs:,} MACs; {cost.convention} says {ratio:.4f} of it"
        ),
        Fact("Parameters", cost.parameters, Unit.QUANTITY, f"{cost.parameters:,}"),
    ]
    if cost.activations is not None:
        detail = f"{cost.activations:,}, as {cost.convention} counts them"
        facts.append(Fact("Activations", cost.activations, Unit.QUANTITY, detail))
    return tuple(facts)


_FIRST = {"module": "Module", "operator": "Counted", "kind": "Kind", "call": "Call"}


def _table(cost: ConventionCost) -> Table:
    columns = [Column(cost.by, _FIRST[cost.by])]
    columns += [Column("detail", "Kind" if cost.by == "operator" else "Class", priority=2)] if cost.by != "kind" else []
    columns += [Column("parameters", "Params", Unit.QUANTITY, priority=4)] if cost.by == "module" and cost.tree else []
    columns += [
        Column("amount", cost.unit, _UNITS.get(cost.unit, Unit.QUANTITY)),
        Column("share", "Share", Unit.SHARE, bar=True),
    ]
    if cost.activations is not None:
        columns.append(Column("activations", "Activations", Unit.QUANTITY, priority=3))
    if cost.by != "operator":
        columns.append(Column("own_macs", "modelprobe MACs", Unit.MACS, priority=1))
    keys = [column.key for column in columns[1:]]
    rows = tuple(
        Row(
            (row.name, *(getattr(row, key) for key in keys)),
            depth=row.depth if cost.tree else 0,
            quiet=not row.amount and not row.own_macs,
        )
        for row in cost.rows
    )
    return Table(tuple(columns), rows, tree=cost.tree)


def _difference_table(cost: ConventionCost) -> Table:
    columns = (
        Column("kind", "Difference by kind"),
        Column("counted", f"{cost.convention}, in MACs", Unit.MACS),
        Column("own", "modelprobe MACs", Unit.MACS),
        Column("difference", "Difference", Unit.MACS),
    )
    rows = [Row((row.kind, row.counted, row.own, row.difference)) for row in cost.differences]
    return Table(columns, tuple(rows), key="differences")


def _own_notes(cost: ConventionCost) -> list[Note]:
    not_seen = find_convention(cost.convention).not_seen
    missed = [row for row in cost.differences if row.own > row.counted]
    told = ", ".join(f"{row.kind} {scaled(row.difference)}" for row in missed)
    here = f" Of this model it leaves out, in MACs: {told}." if told else " Of this model's MACs it leaves out none."
    notes = [Note(f"{cost.convention} does not see {not_seen}.{here}", Level.INFO)]
    if cost.hidden:
        how = f"Shown to depth {cost.depth}; {cost.hidden} rows lie deeper (--depth)." if cost.tree else ""
        notes.append(Note(how or f"{cost.hidden} more rows are not shown (--top).", Level.INFO))
    return notes
