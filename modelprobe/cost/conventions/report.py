"""The report of `flops --convention`: the cost of a forward pass as another tool counts it, and the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.conventions import find_convention
from modelprobe.cost.conventions.convention import ToolCount
from modelprobe.cost.rollup import Amounts, CostPlace, Rollup, choose_rows, input_texts, model_name, parameters_inside
from modelprobe.cost.tables import ROW_TITLES, hidden_notes, row_table
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, scaled
from modelprobe.tracing.records import Trace

_UNITS = {"MACs": Unit.MACS, "FLOPs": Unit.FLOPS}


@dataclass(frozen=True, slots=True)
class ToolAmounts(Amounts):
    """What the tool counts, in its own unit, in how many items, and modelprobe's MACs for the same."""

    amount: float = 0
    activations: int = 0
    items: int = 0
    own_macs: int = 0


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
    path: str | None = None


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
        blocks: tuple[Block, ...] = (
            Facts(_convention_facts(self)),
            _convention_table(self),
            _difference_table(self),
            *self.notes,
            *_convention_notes(self),
        )
        title = f"{self.model}: cost of one forward pass as {self.convention} counts it"
        return self.blocks_report(title, "modelprobe.flops-convention/1", *blocks)


def count_by_convention(
    trace: Trace, convention: str, *, by: str = "module", depth: int | None = None, top: int | None = None
) -> ConventionCost:
    """The cost that `trace` recorded as the tool of that name would state it, to its own integer.

    Rows are as in `count_flops`: modules or calls (a tree to `depth`), operators or kinds; `top` keeps the dearest.
    """
    rules, tree = find_convention(convention), top is None and by in ("module", "call")
    found = rules.count(trace)
    rollup = _convention_rollup(trace, found)
    places = rollup.rows(by, ranked=top is not None)
    if not tree:  # a table of what the tool counts
        places = [place for place in places if place.cost.items]
    shown, shown_depth, hidden = choose_rows(places, depth, top, tree=tree)
    parameters = parameters_inside(trace.tree) if tree and by == "module" else None
    told = (*found.notes, *_unlike_the_tool(trace, convention))
    return ConventionCost(
        model=model_name(trace),
        inputs=input_texts(trace),
        convention=convention,
        follows=rules.follows,
        unit=rules.amount,
        total=found.total,
        macs=_in_macs(found.total, rules.per_mac),
        activations=found.activations if rules.activations else None,
        own_macs=trace.macs,
        parameters=trace.tree.parameter_count(),
        differences=_differences(rollup, rules.per_mac),
        by=by,
        depth=shown_depth,
        tree=tree,
        hidden=hidden,
        rows=tuple(_convention_row(place, found.total, by, parameters) for place in shown),
        notes=(*trace.notes, *(Note(text, Level.INFO) for text in told)),
        env=trace.env,
    )


def _unlike_the_tool(trace: Trace, convention: str) -> Iterator[str]:
    """What the tool itself treats otherwise than the rules here, where the model has it."""
    masks = (entry for entry in trace.tree.state if entry.role == "buffer" and entry.path.endswith("_mask"))
    if convention == "torchinfo" and next(masks, None) is not None:
        yield "torchinfo itself leaves out weights that a mask of torch.nn.utils.prune hides; here they are counted."
    if convention == "fvcore" and any(node.home.startswith("torch.jit") for node in trace.tree.modules):
        yield "fvcore itself does not look into TorchScript inside a model; here its operators are counted."


def _convention_rollup(trace: Trace, found: ToolCount) -> Rollup[ToolAmounts]:
    counted = [(item, ToolAmounts(item.amount, item.activations, 1)) for item in found.items]
    own = [(op, ToolAmounts(own_macs=op.macs)) for op in trace.ops]
    return Rollup(trace, [*counted, *own], ToolAmounts(), lambda cost: (-cost.amount,))


def _convention_row(
    place: CostPlace[ToolAmounts], total: float, by: str, parameters: Mapping[str, int] | None
) -> ConventionRow:
    cost = place.cost
    return ConventionRow(
        name=place.name,
        detail="" if by == "kind" else place.detail,
        depth=place.depth,
        amount=cost.amount,
        share=cost.amount / total if total else 0.0,
        activations=cost.activations,
        parameters=None if parameters is None else parameters.get(place.path or "", 0),
        own_macs=None if by == "operator" else cost.own_macs,
        path=place.path,
    )


def _differences(rollup: Rollup[ToolAmounts], per_mac: int) -> tuple[Difference, ...]:
    """By kind of operator, the greatest difference first; kinds that neither counts are left out."""
    places = rollup.rows("kind")
    rows = [Difference(place.name, _in_macs(place.cost.amount, per_mac), place.cost.own_macs) for place in places]
    return tuple(sorted((row for row in rows if row.counted or row.own), key=lambda row: -abs(row.difference)))


def _in_macs(amount: float, per_mac: int) -> float:
    return amount / per_mac if per_mac > 1 else amount


def _convention_facts(cost: ConventionCost) -> tuple[Fact, ...]:
    ratio = cost.macs / cost.own_macs if cost.own_macs else 0.0
    facts = [
        Fact("Input", ", ".join(cost.inputs) or "none"),
        Fact("Convention", cost.convention, detail=f"follows {cost.follows}; the tool is not run"),
        Fact(cost.unit, cost.total, _UNITS.get(cost.unit, Unit.QUANTITY), f"{cost.total:,}"),
        Fact(
            "modelprobe",
            cost.own_macs,
            Unit.MACS,
            f"{cost.own_macs:,} MACs; {cost.convention} counts {ratio:.4f} of them",
        ),
        Fact("Parameters", cost.parameters, Unit.QUANTITY, f"{cost.parameters:,}"),
    ]
    if cost.activations is not None:
        detail = f"{cost.activations:,}, as {cost.convention} counts them"
        facts.append(Fact("Activations", cost.activations, Unit.QUANTITY, detail))
    return tuple(facts)


def _convention_table(cost: ConventionCost) -> Table:
    first, second = ("Counted", "Kind") if cost.by == "operator" else ROW_TITLES[cost.by]
    columns = [
        Column(cost.by, first),
        *([Column("detail", second, priority=2)] if cost.by != "kind" else []),
        *([Column("parameters", "Params", Unit.QUANTITY, priority=4)] if cost.by == "module" and cost.tree else []),
        Column("amount", cost.unit, _UNITS.get(cost.unit, Unit.QUANTITY)),
        Column("share", "Share", Unit.SHARE, bar=True),
        *([Column("activations", "Activations", Unit.QUANTITY, priority=3)] if cost.activations is not None else []),
        *([Column("own_macs", "modelprobe MACs", Unit.MACS, priority=1)] if cost.by != "operator" else []),
    ]
    return row_table(columns, cost.rows, tree=cost.tree, quiet=lambda row: not row.amount and not row.own_macs)


def _difference_table(cost: ConventionCost) -> Table:
    columns = (
        Column("kind", "Difference by kind"),
        Column("counted", f"{cost.convention}, in MACs", Unit.MACS),
        Column("own", "modelprobe MACs", Unit.MACS),
        Column("difference", "Difference", Unit.MACS),
    )
    rows = [Row((row.kind, row.counted, row.own, row.difference)) for row in cost.differences]
    return Table(columns, tuple(rows), key="differences")


def _convention_notes(cost: ConventionCost) -> list[Note]:
    not_seen = find_convention(cost.convention).not_seen
    missed = ", ".join(f"{row.kind} {scaled(row.difference)}" for row in cost.differences if row.own > row.counted)
    here = f" MACs left out of this model: {missed}." if missed else " No MACs of this model are left out."
    return [
        Note(f"Not counted by {cost.convention}: {not_seen}.{here}", Level.INFO),
        *hidden_notes(cost.hidden, cost.depth, cost.tree),
    ]
