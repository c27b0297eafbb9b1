"""The result of `diverge`: the verdict, the culprit with both sides of it, and the drift by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.inside.divergence.culprit import Culprit
from modelprobe.report.blocks import Block, Column, Fact, Facts, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit


@dataclass(frozen=True, slots=True)
class Drift:
    """How far two runs, each by itself, are apart behind one step; None where only one of them is finite."""

    path_a: str
    path_b: str
    operator: str
    shape: tuple[int, ...]
    largest: float | None
    backward: bool = False


@dataclass(frozen=True, slots=True)
class DivergenceResult(Result):
    """Whether two runs compute the same, and the first operator where they do not.

    `verdict` is `equal` or `diverges`. `others` are further operators that differ on their own; `suspects` how many
    steps did. `without_effect` are steps (path in A, path in B, operator) whose arguments or constants differ and whose
    results do not. `compared` pairs of steps were compared, of `steps_a` and `steps_b`.
    """

    a: str
    b: str
    verdict: str
    culprit: Culprit | None
    others: tuple[Culprit, ...]
    compared: int
    steps_a: int
    steps_b: int
    suspects: int
    without_effect: tuple[tuple[str, str, str], ...]
    kept_bytes: int
    drift: tuple[Drift, ...]
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def diverges(self) -> bool:
        """Whether an operator was found that does something else."""
        return self.verdict == "diverges"

    def report(self) -> Report:
        """The verdict, the culprit's arguments side by side, further ones, the drift by layer."""
        blocks: list[Block] = [Facts(self._facts())]
        if self.culprit is not None and self.culprit.arguments:
            blocks.append(_argument_table(self.culprit))
        if self.others:
            blocks.append(_others_table(self.others))
        rows = _by_layer(self.drift)
        if any(row.largest != 0 for row in rows):
            blocks.append(_drift_table(rows, self.culprit))
        return self.blocks_report(f"{self.a} | {self.b}: divergence", "modelprobe.divergence/1", *blocks, *self.notes)

    def _facts(self) -> tuple[Fact, ...]:
        found = [Fact("Verdict", self.verdict, tone=Tone.of(self.culprit is None))]
        one = self.culprit
        if one is not None:
            found.append(Fact("Operator", f"{one.operator} in {one.place}", detail=one.reason))
            if one.path_a != one.path_b and one.path_a:
                found.append(Fact("In A", one.path_a))
            if one.largest is not None:
                found.append(Fact("Difference", f"{one.largest:.3g}", detail="largest, relative to the RMS"))
            if one.values is not None:
                place = ", ".join(map(str, one.element))
                found.append(Fact("First element", f"[{place}]", detail=f"{one.values[0]:.7g} | {one.values[1]:.7g}"))
            found += [Fact(f"Line in {side}", line) for side, line in (("A", one.line_a), ("B", one.line_b)) if line]
        text = f"of {self.steps_a:,} in A and {self.steps_b:,} in B"
        found.append(Fact("Compared", f"{self.compared:,} operators", detail=text))
        worst = max(self.drift, key=lambda one: math.inf if one.largest is None else one.largest, default=None)
        if worst is not None:
            said = "not finite" if worst.largest is None else f"{worst.largest:.1e}" if worst.largest else "none"
            place = f"at {worst.path_b or 'the model itself'}, each run by itself" if worst.largest != 0 else ""
            found.append(Fact("Largest drift", said, detail=place))
        if self.without_effect:
            count = len(self.without_effect)
            found.append(Fact("No effect", f"{count} operators", detail="differ in arguments, not in results"))
        return tuple(found)


def _argument_table(one: Culprit) -> Table:
    columns = (Column("name", "Argument"), Column("a", "A", wrap=True), Column("b", "B", wrap=True))
    rows = tuple(Row((row.name, row.a, row.b), mark="differs" if row.differs else "") for row in one.arguments)
    return Table(columns, rows, title=f"Arguments of {one.operator}", key="arguments")


def _others_table(others: tuple[Culprit, ...]) -> Table:
    columns = (
        Column("path_b", "Module in B"),
        Column("path_a", "Module in A", priority=2),
        Column("operator", "Operator"),
        Column("reason", "Reason", wrap=True, priority=1),
    )
    rows = tuple(Row((one.path_b, one.path_a, one.operator, one.reason)) for one in others)
    return Table(columns, rows, title="Further operators that differ by themselves", key="others")


def _by_layer(drift: tuple[Drift, ...]) -> list[Drift]:
    """The last step of each run of steps in one module."""
    rows: list[Drift] = []
    for one in drift:
        if rows and (rows[-1].path_b, rows[-1].backward) == (one.path_b, one.backward):
            rows[-1] = one
        else:
            rows.append(one)
    return rows


MAX_DRIFT_ROWS = 24


def _drift_table(rows: list[Drift], culprit: Culprit | None) -> Table:
    columns = (
        Column("path_b", "Module in B"),
        Column("path_a", "Module in A", priority=2),
        Column("operator", "Operator", priority=1),
        Column("shape", "Shape", Unit.SHAPE, priority=3),
        Column("drift", "Drift"),
    )
    shown = rows if len(rows) <= MAX_DRIFT_ROWS else _around(rows, culprit)
    table = tuple(
        Row(
            (
                one.path_b or "(model)",
                one.path_a or "(model)",
                one.operator.removeprefix("aten."),
                one.shape,
                "not finite" if one.largest is None else f"{one.largest:.1e}" if one.largest else "0",
            ),
            mark=_mark(one, culprit),
            quiet=one.largest == 0,
        )
        for one in shown
    )
    title = "Drift by layer, each run by itself"
    return Table(columns, table, title=title if len(shown) == len(rows) else f"{title} ({len(shown)} of {len(rows)})")


def _mark(one: Drift, culprit: Culprit | None) -> str:
    here = culprit is not None and (one.path_b, one.backward) == (culprit.path_b, culprit.backward)
    return "culprit" if here else "backward" if one.backward else ""


def _around(rows: list[Drift], culprit: Culprit | None) -> list[Drift]:
    """Rows about the culprit, and every so many of the rest."""
    place = next((k for k, one in enumerate(rows) if _mark(one, culprit) == "culprit"), 0)
    step = max(1, len(rows) // (MAX_DRIFT_ROWS // 2))
    return [one for k, one in enumerate(rows) if abs(k - place) < MAX_DRIFT_ROWS // 4 or k % step == 0]
