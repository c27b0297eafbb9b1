"""The report of `modelprobe scaling`: the cost of a forward pass against input size and batch, and its polynomial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.cost.rollup import Tally, add_up, tally_of
from modelprobe.cost.scaling.law import CostPolynomial, Crossover, attention_macs
from modelprobe.cost.tables import row_mark
from modelprobe.report.blocks import Block, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact_count, scaled
from modelprobe.tracing.records import Trace


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """The cost of one forward pass at one size of input. `attention_macs` are those between activations."""

    inputs: tuple[str, ...]
    size: int | None
    batch: int | None
    macs: int
    attention_macs: int
    flops: int
    activations: int
    bytes_moved: int
    parameters: int
    uncounted: int


@dataclass(frozen=True, slots=True)
class Scaling(Result):
    """Points in the order asked for, the exact polynomials where there are any, and where attention dominates."""

    model: str
    points: tuple[ScalingPoint, ...]
    laws: tuple[CostPolynomial, ...]
    crossover: Crossover | None
    notes: tuple[Note, ...]
    plot: str | None = None
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The table of points with bars, the polynomials, the plot if one was written, notes."""
        blocks: list[Block] = [Facts(_scaling_facts(self)), _scaling_table(self)]
        if self.plot:
            blocks.append(Figure(Path(self.plot), f"{self.model}: MACs by size"))
        blocks += [*self.notes, *_scaling_notes(self)]
        return self.blocks_report(f"{self.model}: cost by input size and batch", "modelprobe.scaling/1", *blocks)


def point_of(trace: Trace, size: int | None, batch: int | None) -> ScalingPoint:
    """What a recorded forward pass costs in all."""
    total = add_up(map(tally_of, trace.ops), Tally())
    return ScalingPoint(
        inputs=tuple(trace.env.get("inputs", ())),
        size=size,
        batch=batch,
        macs=total.macs,
        attention_macs=attention_macs(trace),
        flops=total.flops,
        activations=total.activations,
        bytes_moved=total.bytes_moved,
        parameters=trace.tree.parameter_count(),
        uncounted=total.uncounted,
    )


def _scaling_facts(result: Scaling) -> tuple[Fact, ...]:
    parameters = [point.parameters for point in result.points]
    least, most = min(parameters), max(parameters)
    facts = [Fact("Parameters", most, Unit.QUANTITY, exact_count(most))]
    if least != most:
        facts = [Fact("Parameters", f"{scaled(least)} to {scaled(most)}", detail="the model is built for its input")]
    for law in result.laws:
        facts.append(Fact(f"MACs by {law.variable}", str(law.polynomial(law.macs)), detail=f"with n = {law.n}"))
        attention = law.polynomial(law.attention_macs)
        if any(attention.coefficients):
            facts.append(Fact("of which attention", str(attention), detail="products of two activations"))
    if result.crossover is not None:
        facts.append(_crossover_fact(result.crossover))
    return tuple(facts)


def _crossover_fact(found: Crossover) -> Fact:
    how = "verified there and one size before" if found.verified else "by the polynomial, not verified"
    amounts = f"{scaled(found.attention_macs)} of {scaled(found.macs)} MACs"
    return Fact("Attention dominates", f"from size {found.size}", detail=f"{amounts}; {how}")


def _scaling_table(result: Scaling) -> Table:
    points = result.points
    batches = len({point.batch for point in points}) > 1
    attention = any(point.attention_macs for point in points)
    most = max(point.macs for point in points) or 1
    columns = [
        Column("input", "Input"),
        *([Column("batch", "Batch", Unit.COUNT)] if batches else []),
        Column("macs", "MACs", Unit.MACS),
        Column("times", "vs first", Unit.RATIO, priority=1),
        Column("of_most", "vs largest", Unit.SHARE, bar=True),
        *([Column("attention", "Attention", Unit.SHARE, priority=2)] if attention else []),
        Column("flops", "FLOPs", Unit.FLOPS, priority=3),
        Column("activations", "Activations", Unit.QUANTITY, priority=4),
        Column("bytes_moved", "Moved", Unit.BYTES, priority=5),
    ]
    return Table(tuple(columns), tuple(_point_row(p, points[0], most, batches, attention) for p in points))


def _point_row(point: ScalingPoint, first: ScalingPoint, most: int, batches: bool, attention: bool) -> Row:
    cells: list[Any] = [", ".join(point.inputs) or "none", *([point.batch] if batches else []), point.macs]
    cells += [point.macs / first.macs if first.macs else None, point.macs / most]
    cells += [point.attention_macs / point.macs if point.macs else 0.0] if attention else []
    cells += [point.flops, point.activations, point.bytes_moved]
    return Row(tuple(cells), mark=row_mark(uncounted=point.uncounted))


def _scaling_notes(result: Scaling) -> list[Note]:
    notes = []
    for law in result.laws:
        fitted, verified = (", ".join(map(str, sizes)) for sizes in (law.found_at, law.proven_at))
        text = f"Polynomial by {law.variable}: fitted on {fitted}, verified on {verified}."
        notes.append(Note(text, Level.INFO))
    missing = sum(point.uncounted for point in result.points)
    if missing:
        text = f"{missing} operator calls have no formula and are not in the totals: `flops` lists them."
        notes.append(Note(text, Level.WARNING))
    return notes
