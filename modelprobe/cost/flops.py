"""The report of `modelprobe flops`: the cost of a forward pass, where it is, and what was not counted."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from modelprobe.cost.data_dependent import CostBounds, bounds_table
from modelprobe.cost.rollup import (
    ITSELF,
    CostPlace,
    Tally,
    choose_rows,
    forward_rollup,
    input_texts,
    mode_facts,
    model_name,
    parameters_inside,
    peak_fact,
)
from modelprobe.cost.tables import (
    ROW_TITLES,
    hidden_notes,
    module_names,
    plural,
    row_mark,
    row_table,
    uncounted_note,
    uncounted_table,
)
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Table, Tone, plain
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact_count, scaled, size
from modelprobe.tracing.records import GAPS, CoverageGap, Trace, Uncounted

By = Literal["module", "operator", "kind", "call"]


@dataclass(frozen=True, slots=True)
class CostRow:
    """One row: a module with everything inside it, an operator, a kind, or a module call.

    `path` is the module's full one (of the first of equal ones); None where the row is no module.
    `share` is of the total MACs (of the total FLOPs when nothing is a MAC). `flops` are 2 per MAC and the rest.
    `same_as` names the first place of a module that stands at several; what it costs stands there. `folded` names the
    modules that are equal to this one, whose figures these are each; `run` of them are neighbours, and they come in a
    pattern of `every` modules where that is not 0; `mark` says so as reports do.
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
    folded: tuple[str, ...] = ()
    run: int = 1
    every: int = 0
    mark: str = ""
    path: str | None = None

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte moved."""
        return self.flops / self.bytes_moved if self.bytes_moved else None


@dataclass(frozen=True, slots=True)
class FlopsResult(Result):
    """The cost of one forward pass. MACs are multiply-accumulates of contractions; 1 MAC = 2 FLOPs.

    `findings` are what the count may lack beside the operators without a formula. `gradient_macs`, part of `macs`, are
    of the gradients that a forward computes which differentiates itself. `peak_bytes` are `Trace.peak_bytes`.
    """

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
    findings: tuple[CoverageGap, ...] = ()
    gradient_macs: int = 0
    peak_bytes: int | None = None
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
        blocks: list[Block] = [Facts(_flops_facts(self)), _flops_table(self)]
        if self.ranges:
            blocks.append(bounds_table(self.ranges))
        if self.uncounted:
            blocks.append(uncounted_table(self.uncounted))
        title = f"{self.model}: cost of one forward pass"
        return self.blocks_report(title, "modelprobe.flops/1", *blocks, *_flops_notes(self))


def flops_of(
    trace: Trace, *, by: str = "module", depth: int | None = None, top: int | None = None, folded: bool = False
) -> FlopsResult:
    """The cost that `trace` recorded, by module (a tree to `depth`), operator, kind or module call.

    `top` keeps the most expensive rows; of modules, those that compute something themselves. Without `depth` a tree
    is shown as deep as about forty rows go. `folded` makes one row of equal blocks in a tree of modules.
    """
    rollup, tree = forward_rollup(trace), top is None and by in ("module", "call")
    places = rollup.rows(by, ranked=top is not None, itself=lambda cost: cost.macs > 0)
    total = rollup.total
    parameters = parameters_inside(trace.tree) if tree and by == "module" else None
    rows = [_cost_row(place, total, parameters) for place in places]
    rows = _folded_rows(rows) if folded and tree and by == "module" else rows
    shown, shown_depth, hidden = choose_rows(rows, depth, top, tree=tree)
    return FlopsResult(
        model=model_name(trace),
        inputs=input_texts(trace),
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
        tree=tree,
        hidden=hidden,
        rows=shown,
        notes=trace.notes,
        findings=trace.gaps,
        gradient_macs=sum(op.macs for op in trace.ops if op.gradient),
        peak_bytes=trace.peak_bytes,
        env=trace.env,
    )


def _folded_rows(rows: Sequence[CostRow]) -> list[CostRow]:
    """The tree with one row for equal blocks and for patterns of them."""
    from modelprobe.cost.folding import flatten, fold_equal, folded_mark, grow, range_of_names, stem

    def form(row: CostRow) -> Hashable:
        return (stem(row.name), bool(row.same_as), *(getattr(row, field) for field in _COMPARED))

    found = []
    for branch, depth in flatten(fold_equal(grow(rows, lambda row: row.depth), form)):
        copies = tuple(row.name for row in branch.copies)
        name = range_of_names(branch.item.name, copies[: branch.run - 1])
        row = replace(branch.item, name=name, depth=depth, folded=copies, run=branch.run, every=branch.every)
        found.append(replace(row, mark=folded_mark(row)))
    return found


_COMPARED = ("detail", "calls", "macs", "flops", "parameters", "activations", "bytes_moved", "uncounted")


def _cost_row(place: CostPlace[Tally], total: Tally, parameters: Mapping[str, int] | None) -> CostRow:
    cost = place.cost
    registered = parameters is not None and place.name != ITSELF
    return CostRow(
        name=place.name,
        detail=place.detail,
        depth=place.depth,
        calls=place.calls,
        macs=cost.macs,
        flops=cost.flops,
        share=cost.macs / total.macs if total.macs else cost.flops / total.flops if total.flops else 0.0,
        parameters=parameters.get(place.path or "", 0) if parameters is not None and registered else None,
        activations=cost.activations,
        bytes_moved=cost.bytes_moved,
        uncounted=cost.uncounted,
        same_as=place.same_as,
        path=place.path,
    )


def _flops_facts(result: FlopsResult) -> tuple[Fact, ...]:
    moved, macs = result.bytes_read + result.bytes_written, exact_count(result.macs)
    facts = [
        Fact("Input", ", ".join(result.inputs) or "none"),
        *mode_facts(result.env),
        Fact("MACs", result.macs, Unit.MACS, f"{macs} (conv, matmul, attention, recurrent)".strip(), Tone.KEY),
        Fact("FLOPs", result.flops, Unit.FLOPS, f"2 x MACs + {scaled(result.elementwise_flops)} elementwise"),
        *_macs_range(result),
        *_own_gradients(result),
        Fact("Parameters", result.parameters, Unit.QUANTITY, exact_count(result.parameters)),
        *_active_parameters(result),
        Fact("Activations", result.activations, Unit.QUANTITY, "output elements of conv and matmul layers"),
        *peak_fact(result.peak_bytes),
        Fact("Bytes moved", moved, Unit.BYTES, f"{size(result.bytes_read)} read, {size(result.bytes_written)} written"),
    ]
    if moved:
        facts.append(Fact("Intensity", result.flops / moved, Unit.RATIO, "FLOPs per byte"))
    return (*facts, *_coverage_gaps(result))


def _macs_range(result: FlopsResult) -> Iterator[Fact]:
    if result.ranges:
        text = f"{scaled(result.least_macs)} to {scaled(result.most_macs)}"
        text += "MACs" if result.most_macs >= 1000 else " MACs"
        yield Fact("MACs range", text, detail="depends on the data, see below")


def _own_gradients(result: FlopsResult) -> Iterator[Fact]:
    if result.gradient_macs:
        yield Fact(
            "Gradients", result.gradient_macs, Unit.MACS, "of the MACs, for gradients that forward itself asks for"
        )


def _active_parameters(result: FlopsResult) -> Iterator[Fact]:
    if result.active_parameters != result.parameters:
        active = result.active_parameters
        yield Fact("Active params", active, Unit.QUANTITY, f"{exact_count(active)} per token, on average".strip())


def _coverage_gaps(result: FlopsResult) -> Iterator[Fact]:
    """What a complete count does not lack: operators with formulas, modules that ran, nothing unseen."""
    missing = sum(item.count for item in result.uncounted)
    parts = [f"{missing} of {plural(result.operators, 'operator')} not counted"] if missing else []
    parts += [f"{plural(len(result.uncalled), 'module')} never ran"] if result.uncalled else []
    parts += dict.fromkeys(GAPS[finding.kind] for finding in result.findings)
    if parts:
        yield Fact("Coverage", "; ".join(parts))


def _flops_table(result: FlopsResult) -> Table:
    first, second = ROW_TITLES[result.by]
    by_module = result.by == "module"
    columns = [
        Column(result.by, first),
        Column("detail", second, priority=2),
        *([] if result.tree else [Column("calls", "Ops", Unit.COUNT, priority=3)]),
        *([Column("parameters", "Params", Unit.QUANTITY, priority=3)] if result.tree and by_module else []),
        Column("macs", "MACs", Unit.MACS),
        Column("share", "Share", Unit.SHARE, bar=True),
        Column("flops", "FLOPs", Unit.FLOPS, priority=1),
        Column("activations", "Activations", Unit.QUANTITY, priority=4),
        Column("bytes_moved", "Moved", Unit.BYTES, priority=5),
        Column("intensity", "FLOPs/B", Unit.RATIO, priority=6),
    ]

    def mark(row: CostRow) -> str:
        calls = row.calls if result.tree and by_module and row.name != ITSELF else 0
        return row_mark(uncounted=row.uncounted, copies=row.mark, same_as=row.same_as, calls=calls)

    def without_cost(row: CostRow) -> bool:
        """Rows that a reader who looks for the cost passes over."""
        return row.macs == 0 if result.macs else row.flops == 0

    return row_table(columns, result.rows, tree=result.tree, mark=mark, quiet=without_cost)


def _flops_notes(result: FlopsResult) -> list[Note]:
    notes = [*result.notes, *uncounted_note(result.uncounted)]
    if result.uncalled:
        notes.append(Note(f"Never ran: {module_names(result.uncalled, 6)}.", Level.INFO))
    if any(row.folded for row in result.rows):
        notes.append(
            Note("Rows marked xN are N blocks with equal classes and costs; figures are per block.", Level.INFO)
        )
    return [*notes, *hidden_notes(result.hidden, result.depth, result.tree)]
