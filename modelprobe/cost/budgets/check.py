"""The answer of `modelprobe check`: figures of a model against limits and against a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.rollup import input_texts
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, scaled
from modelprobe.tracing.records import Trace


@dataclass(frozen=True, slots=True)
class BudgetFigure:
    """A figure that a budget may hold: its title, its plural verb and the option that sets its limit."""

    title: str
    unit: Unit
    option: str


FIGURES: dict[str, BudgetFigure] = {
    "parameters": BudgetFigure("parameters", Unit.QUANTITY, "--max-params"),
    "macs": BudgetFigure("MACs", Unit.MACS, "--max-gmacs"),
    "flops": BudgetFigure("FLOPs", Unit.FLOPS, "--max-gflops"),
    "activations": BudgetFigure("activations", Unit.QUANTITY, "--max-activations"),
    "memory": BudgetFigure("bytes at peak", Unit.BYTES, "--max-memory"),
}
"""Deterministic all of them: the same code gives the same integers on every machine. `memory` is of tensors alone,
since what kernels take depends on the processor; it is there where a limit or the baseline asks for it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits by figure; where there is a baseline, its figures, its file, and the share they may grow by."""

    limits: Mapping[str, int]
    baseline: Mapping[str, int] = field(default_factory=dict)
    baseline_file: str = ""
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckedFigure:
    """One figure. `limit` and `before` are None where nobody set them; `breaches` say in words what is exceeded."""

    figure: str
    value: int
    limit: int | None
    before: int | None
    breaches: tuple[str, ...] = ()

    @property
    def change(self) -> float | None:
        """The growth since the baseline, as a share of it."""
        return (self.value - self.before) / self.before if self.before else None


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """One model's figures. `uncounted` operators have no formula: figures are lower bounds then.

    `gaps` are what the recording says that the figures may lack.
    """

    target: str
    inputs: tuple[str, ...]
    figures: tuple[CheckedFigure, ...]
    uncounted: int
    gaps: tuple[Note, ...] = ()

    @property
    def breaches(self) -> tuple[str, ...]:
        """Every breach, with the model's name."""
        return tuple(f"{self.target}: {text}" for figure in self.figures for text in figure.breaches)


@dataclass(frozen=True, slots=True)
class CheckResult(Result):
    """What was checked. `passed` is whether nothing is exceeded."""

    passed: bool
    models: tuple[CheckedModel, ...]
    baseline_written: str = ""
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def breaches(self) -> tuple[str, ...]:
        """Every breach of every model."""
        return tuple(text for model in self.models for text in model.breaches)

    @property
    def grew(self) -> bool:
        """Whether a figure that is exceeded is above its baseline."""
        figures = [figure for model in self.models for figure in model.figures if figure.breaches]
        return any(figure.before is not None and figure.value > figure.before for figure in figures)

    def to_dict(self) -> dict[str, Any]:
        """The fields and the breaches in words."""
        from modelprobe.report.blocks import plain

        return {**plain(self), "breaches": list(self.breaches)}

    def report(self) -> Report:
        """Whether it passed; a row for each figure that has a limit or a baseline, or for all where none has."""
        facts = [
            Fact("Result", "passed" if self.passed else f"{len(self.breaches)} exceeded", tone=Tone.of(self.passed))
        ]
        facts += [Fact("Input", "; ".join(model.inputs), detail=model.target) for model in self.models]
        columns = (
            Column("model", "Model"),
            Column("figure", "Figure"),
            Column("value", "Value", Unit.COUNT),
            Column("limit", "Limit", Unit.COUNT, 1),
            Column("before", "Baseline", Unit.COUNT, 2),
            Column("change", "Change", Unit.SHARE, 1),
            Column("result", "Result"),
        )
        rows = tuple(
            Row((m.target, FIGURES[f.figure].title, f.value, f.limit, f.before, f.change, _verdict_of(f)))
            for m in self.models
            for f in m.figures
        )
        notes = [*self.notes, *(note for model in self.models for note in _uncounted_notes(model))]
        if self.baseline_written:
            notes.append(Note(f"Wrote the baseline {self.baseline_written}.", Level.INFO))
        return self.blocks_report(
            "Budget check", "modelprobe.check/1", Facts(tuple(facts)), Table(columns, rows), *notes
        )


def _verdict_of(figure: CheckedFigure) -> str:
    if figure.breaches:
        return "exceeded"
    return "ok" if figure.limit is not None or figure.before is not None else ""


def _uncounted_notes(model: CheckedModel) -> Iterator[Note]:
    if model.uncounted:
        text = f"{model.target}: {model.uncounted} operators have no formula; the figures are lower bounds."
        yield Note(text, Level.WARNING)
    for gap in model.gaps:
        yield Note(f"{model.target}: {gap.text}", gap.level)


def figures_of(trace: Trace) -> dict[str, int]:
    """The figures that a budget may hold, of a recorded forward pass."""
    activations = sum(op.activations for op in trace.ops)
    return {
        "parameters": trace.tree.parameter_count(),
        "macs": trace.macs,
        "flops": trace.flops,
        "activations": activations,
    }


def check_trace(target: str, trace: Trace, budget: Budget) -> CheckedModel:
    """The figures of a forward pass against a budget. Raises BadInput for memory of a trace that does not know its."""
    found, figures = [], figures_of(trace)
    if "memory" in budget.limits or "memory" in budget.baseline:
        if trace.peak_bytes is None:
            raise BadInput("the trace does not know its peak memory", "give the model, or a trace of this version")
        figures["memory"] = trace.peak_bytes
    for name, value in figures.items():
        limit, before = budget.limits.get(name), budget.baseline.get(name)
        breaches = tuple(_breaches(name, value, limit, before, budget))
        found.append(CheckedFigure(name, value, limit, before, breaches))
    gaps = tuple(note for note in trace.notes if note.level is Level.WARNING)
    return CheckedModel(target, input_texts(trace), tuple(found), len(trace.uncounted), gaps)


def _breaches(name: str, value: int, limit: int | None, before: int | None, budget: Budget) -> Iterator[str]:
    title = FIGURES[name].title
    if limit is not None and value > limit:
        yield f"{value:,} {title} exceed the limit of {limit:,} ({scaled(value)} > {scaled(limit)})"
    if before is not None and value > before * (1 + budget.tolerance):
        share = f"{(value - before) / before:.2%}" if before else "newly"
        allowed = f", {budget.tolerance:.2%} are allowed" if budget.tolerance else ""
        yield f"{value:,} {title} are {share} more than the {before:,} in {budget.baseline_file}{allowed}"
