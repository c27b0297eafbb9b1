"""The first operator where two runs part: A is run and its values kept, then B, then B made to follow A."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.inside.divergence.align import StepPairs, align, between
from modelprobe.inside.divergence.culprit import Culprit, culprit_of, output_culprit
from modelprobe.inside.divergence.judge import (
    Call,
    CapturedCall,
    CapturingTape,
    JudgingTape,
    Suspect,
    gap_between,
    tolerance_of,
)
from modelprobe.inside.divergence.result import DivergenceResult, Drift
from modelprobe.inside.divergence.spill import ValueStore
from modelprobe.inside.divergence.tape import Tape, TapeOp, flat_tensors
from modelprobe.inside.divergence.watched_run import RunSide, run_under
from modelprobe.report.blocks import Level, Note

MAX_INSPECTED = 8
"""Suspects that are looked into, each by a run of both sides up to it."""

OUTPUTS = -1
"""Stands for the number of an operator where outputs of the whole model are kept."""


class RecordingTape(Tape):
    """A tape that keeps what it takes to call an operator again, without its operands."""

    def __init__(self, store: ValueStore) -> None:
        super().__init__(store)
        self.calls: dict[int, Call] = {}

    def before(self, op: TapeOp, func: Any, args: Any, kwargs: Any) -> None:
        if op.role == "node":
            tensors = zip(flat_tensors(args, kwargs), op.operands, strict=True)
            own = [tensor if operand.is_constant else None for tensor, operand in tensors]
            self.calls[op.number] = Call(func, args, kwargs, own).without_tensors()


@dataclass
class RecordedRun:
    """A run by itself: its operators, what is kept of their values, the outputs' names and makers, what it raised."""

    side: RunSide | None
    ops: list[TapeOp]
    store: ValueStore
    calls: dict[int, Call] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    makers: dict[str, int] = field(default_factory=dict)
    raised: ModelRaised | None = None

    def capture(self, at: int) -> CapturedCall | None:
        """The operator with that number and its operands, from a run up to it; None where that did not get there."""
        assert self.side is not None
        tape = CapturingTape(at)
        run_under(self.side, tape)
        return tape.caught


def recorded_run(side: RunSide, store: ValueStore) -> RecordedRun:
    """Run one side by itself and keep the values of its steps in `store`."""
    tape = RecordingTape(store)
    found = RecordedRun(side, tape.ops, store, tape.calls)
    try:
        outputs = run_under(side, tape)
        for position, (name, tensor) in enumerate(outputs):
            found.makers[name] = tape.maker_of(tensor)
            found.outputs.append(name)
            store.put((OUTPUTS, position), tensor)
    except ModelRaised as error:
        found.raised = error
    return found


def diverge(
    a: RunSide, b: RunSide, names: tuple[str, str] = ("A", "B"), notes: Sequence[Note] = ()
) -> DivergenceResult:
    """Compare two runs. Raises BadInput when both raise, or have no operator in common."""
    with ValueStore() as store:
        return judged_against(recorded_run(a, store), b, names, notes)


def judged_against(
    first: RecordedRun, b: RunSide, names: tuple[str, str], notes: Sequence[Note] = ()
) -> DivergenceResult:
    """Compare a run that was recorded with another one. Raises as `diverge`."""
    with ValueStore() as store:
        second = recorded_run(b, store)
        if first.raised and second.raised:
            raise BadInput(
                f"both sides raise: {first.raised.message}; {second.raised.message}",
                "give inputs that at least one of them takes: --input",
            )
        pairs = align(first.ops, second.ops)
        _refuse_other_inputs(names, first, second, pairs)
        nodes = [sum(op.role == "node" for op in run.ops) for run in (first, second)]
        if not pairs and all(nodes):
            raise BadInput(
                f"{names[0]} and {names[1]} have no operator in common: {nodes[0]} steps and {nodes[1]}, none alike",
                "compare two copies of one network",
            )
        drift = _drift(first, second, pairs)
        culprits, judged, said = _judge(first, second, b, pairs)
        said = [*notes, *said]
        for name, run in zip(names, (first, second), strict=True):
            if run.raised:
                said.append(Note(f"{name} raised: {run.raised.message}", Level.WARNING))
        return _divergence_result(names, first, second, pairs, drift, culprits, judged, said)


def _refuse_other_inputs(names: tuple[str, str], first: RecordedRun, second: RecordedRun, pairs: StepPairs) -> None:
    """Raises BadInput for a side that raises before it computed anything as the other did: it takes other inputs."""
    for name, other, run in ((names[0], names[1], first), (names[1], names[0], second)):
        if run.raised and not pairs:
            raise BadInput(
                f"{name} does not take the inputs that {other} takes: {run.raised.message}",
                "give inputs that both take, by position or by name: --input",
            )


def _divergence_result(
    names: tuple[str, str],
    first: RecordedRun,
    second: RecordedRun,
    pairs: StepPairs,
    drift: tuple[Drift, ...],
    culprits: list[Culprit],
    judged: JudgingTape,
    notes: Sequence[Note],
) -> DivergenceResult:
    raised = [run for run in (first, second) if run.raised]
    if raised and not culprits:
        ops = [run.ops[-1] if run.ops else None for run in (first, second)]
        which = 0 if first.raised else 1
        last = ops[which]
        text = raised[0].raised.message if raised[0].raised else ""
        where = last.path if last else ""
        culprits = [Culprit(where, where, last.name if last else "", reason=f"{names[which]} raised: {text}")]
    return DivergenceResult(
        a=names[0],
        b=names[1],
        verdict="diverges" if culprits else "equal",
        culprit=culprits[0] if culprits else None,
        others=tuple(culprits[1:]),
        compared=judged.compared,
        steps_a=sum(op.role == "node" for op in first.ops),
        steps_b=sum(op.role == "node" for op in second.ops),
        suspects=len(judged.suspects),
        without_effect=tuple((first.ops[i].path, second.ops[j].path, second.ops[j].name) for i, j in judged.quiet[:50]),
        kept_bytes=first.store.written + second.store.written,
        drift=drift,
        notes=tuple(notes),
    )


def _drift(first: RecordedRun, second: RecordedRun, pairs: StepPairs) -> tuple[Drift, ...]:
    """How far both runs, each by itself, are apart at every pair of steps."""
    rows = []
    for i, j in sorted(pairs.items(), key=lambda pair: pair[1]):
        x, y = first.store.stored((i, 0)), second.store.stored((j, 0))
        if x is None or y is None or not x.dtype.is_floating_point:
            continue
        gap = gap_between(x, y).largest
        a, b = first.ops[i], second.ops[j]
        rows.append(Drift(a.path, b.path, b.name, a.outputs[0], gap if gap != float("inf") else None, b.backward))
    return tuple(rows)


def _judge(
    first: RecordedRun, second: RecordedRun, b: RunSide, pairs: StepPairs
) -> tuple[list[Culprit], JudgingTape, list[Note]]:
    judging = JudgingTape(first.ops, second.ops, pairs, first.store, first.calls)
    outputs: list[tuple[str, Tensor]] = []
    notes: list[Note] = []
    try:
        outputs = run_under(b, judging)
    except ModelRaised as error:
        if second.raised is None:
            notes.append(Note(f"Following A, B raised: {error.message}", Level.WARNING))
    if judging.stopped:
        notes.append(Note(f"The comparison ends early: {judging.stopped}.", Level.WARNING))
    culprits: list[Culprit] = []
    for suspect in judging.suspects[:MAX_INSPECTED]:
        found = _inspect(first, second, b, pairs, suspect)
        if found is not None:
            culprits.append(found)
    if not culprits and outputs and first.outputs:
        culprits += _compare_outputs(first, outputs, second, pairs, b.train)
    return culprits, judging, notes


def _inspect(first: RecordedRun, second: RecordedRun, b: RunSide, pairs: StepPairs, suspect: Suspect) -> Culprit | None:
    """Both sides run again up to the suspect, whose operands are then compared."""
    mine = first.capture(suspect.a)
    theirs = CapturingTape(suspect.b, (first.ops, second.ops, pairs, first.store, first.calls))
    run_under(b, theirs)
    if mine is None or theirs.caught is None:
        return None
    return culprit_of(suspect, (mine, theirs.caught), (first.ops, second.ops), pairs)


def _compare_outputs(
    first: RecordedRun,
    outputs: Sequence[tuple[str, Tensor]],
    second: RecordedRun,
    pairs: StepPairs,
    train: bool,
) -> list[Culprit]:
    """What stands behind the last common step: outputs, and gradients of parameters, of B following A."""
    theirs = dict(outputs)
    if len(first.outputs) != len(outputs) and not train:
        text = f"A has {len(first.outputs)} outputs, B has {len(outputs)}"
        return [Culprit("", "", "output", reason=text)]
    same_names = set(theirs) == set(first.outputs)
    for position, name in enumerate(first.outputs):
        if not same_names and position >= len(outputs):
            break
        other = name if same_names else outputs[position][0]
        if not same_names and name.startswith("gradient of "):
            break
        x, y = first.store.stored((OUTPUTS, position)), theirs[other]
        if x is None:
            continue
        known_a, known_b = set(pairs), set(pairs.values())
        way_a = between(first.ops, first.makers.get(name, -1), known_a)
        way_b = between(second.ops, second.makers.get(other, -1), known_b)
        last = [first.ops[n] for n in way_a], [second.ops[n] for n in way_b]
        step = next((op for op in reversed(first.ops) if op.role == "node"), first.ops[-1] if first.ops else None)
        if step is None:
            continue
        types = sorted({str(x.dtype).removeprefix("torch."), str(y.dtype).removeprefix("torch.")})
        room = tolerance_of(step, types, 1 + len(way_a) + len(way_b))
        gap = gap_between(x, y, room)
        if gap.largest > room:
            return [output_culprit(name, *last, gap, room)]
    return []
