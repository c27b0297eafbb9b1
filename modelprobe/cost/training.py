"""The report of `modelprobe training`: the cost of a training step: forward, backward, recomputation, optimizer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.optimizers.known import Optimizer, find_optimizer
from modelprobe.cost.rollup import ITSELF, CostPlace, Rollup, StepCosts, choose_rows, input_texts, model_name
from modelprobe.cost.tables import (
    ROW_TITLES,
    TRAINING_GROUPINGS,
    hidden_notes,
    module_names,
    row_mark,
    row_table,
    uncounted_note,
    uncounted_table,
)
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Level, Note, Report, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact_count, labelled, size
from modelprobe.tracing.records import ModuleTree, OpCall, StateTensor, Trace, Uncounted, parents
from modelprobe.tracing.step_records import TrainingTrace

UPDATE = "(optimizer)"
"""The row of the update, which no operator of either pass computes."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One part of the step: MACs, and FLOPs, two per MAC and the elementwise ones."""

    macs: int
    flops: int


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """The update of every parameter that received a gradient.

    `state_bytes` is what the optimizer keeps between steps, `gradient_bytes` what the gradients take.
    """

    name: str
    rule: str
    flops_per_element: int
    tensors: int
    elements: int
    flops: int
    gradient_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A module with everything inside it, an operator or a kind. `trained` counts the parameters that are updated.

    `share` is of the step's MACs (of its FLOPs when nothing is a MAC). The FLOPs of a module have its update in them.
    """

    name: str
    detail: str
    depth: int
    calls: int
    cost: StepCosts
    trained: int | None
    share: float = 0.0
    same_as: str = ""
    path: str | None = None


@dataclass(frozen=True, slots=True)
class TrainingResult(Result):
    """The cost of one training step. MACs are multiply-accumulates of contractions; 1 MAC = 2 FLOPs.

    `input_gradients` (of activations) and `weight_gradients` add up to `backward`. `summed` are the outputs whose sum
    stands for the loss. `frozen` and `unreached` count the parameters that want no gradient, and that want one and get
    none. `scores_again` are the MACs of the attention scores, which a fused kernel computes once more backwards.
    """

    model: str
    inputs: tuple[str, ...]
    forward: Pass
    backward: Pass
    input_gradients: Pass
    weight_gradients: Pass
    recomputation: Pass
    optimizer: OptimizerStep
    macs: int
    flops: int
    parameters: int
    frozen: int
    unreached: int
    unreached_names: tuple[str, ...]
    summed: tuple[str, ...]
    scores_again: int
    operators: int
    uncounted: tuple[Uncounted, ...]
    by: str
    depth: int | None
    tree: bool
    hidden: int
    rows: tuple[TrainingRow, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """MACs of the backward pass over the forward's, None when the forward has none."""
        return self.backward.macs / self.forward.macs if self.forward.macs else None

    def report(self) -> Report:
        """Facts, the table, what was not counted, and notes."""
        blocks: list[Block] = [Facts(_training_facts(self)), _training_table(self)]
        if self.uncounted:
            blocks.append(uncounted_table(self.uncounted))
        title = f"{self.model}: cost of one training step"
        return self.blocks_report(title, "modelprobe.flops-train/1", *blocks, *_training_notes(self))


def training_cost(
    trace: TrainingTrace,
    *,
    optimizer: str = "sgd",
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
) -> TrainingResult:
    """The cost of the step that `trace` recorded and of the update by `optimizer`, by module, operator or kind.

    `depth` and `top` are as in `flops_of`. Raises BadInput for an unknown optimizer or grouping.
    """
    if by not in TRAINING_GROUPINGS:
        raise BadInput(f"a training step has no rows by {by!r}", f"choose one of {', '.join(TRAINING_GROUPINGS)}")
    rule, forward = find_optimizer(optimizer), trace.forward
    tree = top is None and by == "module"
    updated = [e for e in forward.tree.unique_state() if e.role == "parameter" and e.path in trace.trained]
    rollup = _step_rollup(trace, rule, updated)
    rows, shown_depth, hidden = choose_rows(_training_rows(rollup, rule, updated, by, top), depth, top, tree=tree)
    return TrainingResult(
        model_name(forward),
        input_texts(forward),
        *_passes(trace),
        optimizer=_update(rule, updated),
        macs=rollup.total.macs,
        flops=rollup.total.flops,
        parameters=forward.tree.parameter_count(),
        frozen=_elements(forward.tree, trace.frozen),
        unreached=_elements(forward.tree, trace.unreached),
        unreached_names=trace.unreached,
        summed=trace.summed,
        scores_again=_scores_again(forward),
        operators=len(rollup.items),
        uncounted=trace.uncounted,
        by=by,
        depth=shown_depth,
        tree=tree,
        hidden=hidden,
        rows=rows,
        notes=(*trace.notes, *_mismatch(trace), *_modes(forward)),
        env=forward.env,
    )


def _step_rollup(trace: TrainingTrace, rule: Optimizer, updated: Sequence[StateTensor]) -> Rollup[StepCosts]:
    """Every operator of the step with its cost in its pass; updates belong to the module of the parameter."""
    items = [(op, StepCosts(forward=op.macs, **_rest(op))) for op in trace.forward.ops]
    for op, phase, _, weight, _ in trace.gradients:
        if phase == "recomputation":
            items.append((op, StepCosts(weight=weight, recomputed=op.macs, **_rest(op))))
        else:
            items.append((op, StepCosts(input=op.macs - weight, weight=weight, **_rest(op))))
    homes: dict[str, list[StateTensor]] = {}
    for entry in updated:
        homes.setdefault(entry.path.rpartition(".")[0], []).append(entry)
    updates = {path: StepCosts(flops=_update_flops(rule, entries)) for path, entries in homes.items()}
    return Rollup(trace.forward, items, StepCosts(), lambda cost: (-cost.macs, -cost.flops), updates)


def _rest(op: OpCall) -> dict[str, int]:
    return {"flops": 2 * op.macs + op.flops, "uncounted": int(op.status == "uncounted")}


def _training_rows(
    rollup: Rollup[StepCosts], rule: Optimizer, updated: Sequence[StateTensor], by: str, top: int | None
) -> list[TrainingRow]:
    total = rollup.total
    whole, part = (total.macs, "macs") if total.macs else (total.flops, "flops")
    inside, own = _trained(updated, inside=True), _trained(updated, inside=False)

    def row(place: CostPlace[StepCosts]) -> TrainingRow:
        itself, share = top is not None or place.name == ITSELF, getattr(place.cost, part) / whole if whole else 0.0
        trained = None if place.path is None else (own if itself else inside).get(place.path, 0)
        calls = 0 if by == "module" and itself else place.calls
        return TrainingRow(
            place.name, place.detail, place.depth, calls, place.cost, trained, share, place.same_as, place.path
        )

    rows = [row(place) for place in rollup.rows(by, ranked=top is not None, itself=lambda cost: cost.macs > 0)]
    if by == "module":
        return rows
    elements = sum(entry.numel for entry in updated)
    cost = StepCosts(flops=_update_flops(rule, updated))
    share = getattr(cost, part) / whole if whole else 0.0
    return [*rows, TrainingRow(UPDATE, rule.name, 0, 1, cost, elements, share)]


def _trained(updated: Sequence[StateTensor], inside: bool) -> dict[str, int]:
    """Path -> updated parameters registered there, or there and below; shared ones at their first name."""
    found: dict[str, int] = {}
    for entry in updated:
        places = list(parents(entry.path))
        for place in places if inside else places[:1]:
            found[place] = found.get(place, 0) + entry.numel
    return found


def _elements(tree: ModuleTree, names: Collection[str]) -> int:
    """Elements of the parameters that go by these names, each tensor once."""
    return sum(entry.numel for entry in tree.unique_state() if entry.role == "parameter" and entry.path in names)


def _passes(trace: TrainingTrace) -> tuple[Pass, Pass, Pass, Pass, Pass]:
    """The forward; the backward, its gradients of inputs, those of weights; what was computed again."""
    back = [step for step in trace.gradients if step.phase == "backward"]
    again = [step.op for step in trace.gradients if step.phase == "recomputation"]
    weights = Pass(
        sum(step.weight_macs for step in back), sum(2 * step.weight_macs + step.weight_flops for step in back)
    )
    both = _pass(step.op for step in back)
    inputs = Pass(both.macs - weights.macs, both.flops - weights.flops)
    return Pass(trace.forward.macs, trace.forward.flops), both, inputs, weights, _pass(again)


def _pass(ops: Iterable[OpCall]) -> Pass:
    found = list(ops)
    return Pass(sum(op.macs for op in found), sum(2 * op.macs + op.flops for op in found))


def _update(rule: Optimizer, updated: Sequence[StateTensor]) -> OptimizerStep:
    elements, nbytes = sum(entry.numel for entry in updated), sum(entry.nbytes for entry in updated)
    return OptimizerStep(
        name=rule.name,
        rule=rule.rule,
        flops_per_element=rule.flops,
        tensors=len(updated),
        elements=elements,
        flops=_update_flops(rule, updated),
        gradient_bytes=nbytes,
        state_bytes=rule.states * nbytes,
    )


def _update_flops(rule: Optimizer, updated: Iterable[StateTensor]) -> int:
    """A complex parameter is updated as two real ones."""
    return rule.flops * sum(entry.numel * (2 if entry.dtype.startswith("complex") else 1) for entry in updated)


def _scores_again(trace: Trace) -> int:
    """L x S x E for every attention: what one more Q K^T of each would cost."""
    total = 0
    for op in trace.ops:
        if op.name == "aten.scaled_dot_product_attention" and len(op.inputs) > 2 and op.outputs[0].shape[-1]:
            rows = op.outputs[0].numel // op.outputs[0].shape[-1]
            total += rows * op.inputs[1].shape[-2] * op.inputs[0].shape[-1]
    return total


def _mismatch(trace: TrainingTrace) -> list[Note]:
    """A warning where the forward cost something else the second time, as one that chooses at random does."""
    if trace.forward_macs == trace.forward.macs:
        return []
    text = (
        f"Recorded under autograd the forward has {trace.forward_macs:,} MACs, not {trace.forward.macs:,}: "
        "the backward pass belongs to that one."
    )
    return [Note(text, Level.WARNING)]


def _modes(trace: Trace) -> list[Note]:
    """A note on what a forward in training mode does otherwise than in inference."""
    norms = sum("batch_norm" in op.name and op.arguments[5:6] == (True,) for op in trace.ops)
    drops = sum(op.name.endswith("dropout") and bool(op.arguments[1:2] and op.arguments[1]) for op in trace.ops)
    parts = [f"batch norm uses batch statistics ({norms} x)"] if norms else []
    parts += [f"dropout is active ({drops} x)"] if drops else []
    return [Note(f"The forward runs in training mode: {', '.join(parts)}.", Level.INFO)] if parts else []


def _training_facts(result: TrainingResult) -> tuple[Fact, ...]:
    step, again = result.optimizer, result.recomputation
    times = f", {result.ratio:.3f} x the forward's MACs" if result.ratio is not None else ""
    missing = sum(item.count for item in result.uncounted)
    return (
        Fact("Input", ", ".join(result.inputs) or "none"),
        _pass_fact("Forward", result.forward, ""),
        _pass_fact("Backward", result.backward, times),
        _pass_fact("dL/dx", result.input_gradients, ", gradients of activations"),
        _pass_fact("dL/dW", result.weight_gradients, ", gradients of parameters"),
        *([_pass_fact("Recomputed", again, ", activation checkpointing")] if again.flops else []),
        Fact(
            "Optimizer",
            step.flops,
            Unit.FLOPS,
            f"{step.name}, {step.flops_per_element} FLOPs per trained parameter",
        ),
        Fact(
            "One step",
            result.macs,
            Unit.MACS,
            f"{exact_count(result.macs)}; {labelled(result.flops, Unit.FLOPS)}".lstrip("; "),
        ),
        Fact("Trained", step.elements, Unit.QUANTITY, f"{step.elements:,} of {result.parameters:,} parameters"),
        Fact(
            "Memory",
            step.gradient_bytes + step.state_bytes,
            Unit.BYTES,
            f"gradient and optimizer memory: {size(step.gradient_bytes)} + {size(step.state_bytes)}",
        ),
        *([Fact("Coverage", f"{missing} of {result.operators} operators not counted")] if missing else []),
    )


def _pass_fact(label: str, part: Pass, more: str) -> Fact:
    return Fact(label, part.macs, Unit.MACS, f"{labelled(part.flops, Unit.FLOPS)}{more}")


def _training_table(result: TrainingResult) -> Table:
    by_module, (first, second) = result.by == "module", ROW_TITLES[result.by]
    recomputed = result.recomputation.macs > 0
    columns = [
        Column(result.by, first),
        Column("detail", second, priority=2 if by_module else 4),
        *([] if by_module else [Column("calls", "Ops", Unit.COUNT, priority=3)]),
        *([Column("trained", "Trained", Unit.QUANTITY, priority=7)] if by_module else []),
        Column("forward", "Forward MACs", Unit.MACS),
        Column("backward", "Backward MACs", Unit.MACS),
        Column("input", "dL/dx MACs", Unit.MACS, priority=5),
        Column("weight", "dL/dW MACs", Unit.MACS, priority=6),
        *([Column("recomputed", "Recomputed MACs", Unit.MACS, priority=1)] if recomputed else []),
        Column("share", "Share", Unit.SHARE, priority=1 if by_module else 2, bar=True),
        Column("flops", "FLOPs", Unit.FLOPS, priority=3 if by_module else 1),
    ]

    def cell(row: TrainingRow, key: str) -> Cell:
        found: Cell = getattr(row if key in TrainingRow.__slots__ else row.cost, key)
        return found

    def mark(row: TrainingRow) -> str:
        calls = row.calls if result.tree and row.name != ITSELF else 0
        return row_mark(uncounted=row.cost.uncounted, same_as=row.same_as, calls=calls)

    return row_table(
        columns, result.rows, tree=result.tree, mark=mark, quiet=lambda row: row.cost.flops == 0, cell=cell
    )


def _training_notes(result: TrainingResult) -> list[Note]:
    summed = result.summed
    many = "the output" if len(summed) == 1 else f"{len(summed)} outputs ({module_names(summed, 4)})"
    notes = [
        *result.notes,
        Note(f"The loss is the sum of {many}; no other loss is counted.", Level.INFO),
    ]
    if result.scores_again:
        text = (
            "Attention scores are assumed to be kept for the backward pass. A fused kernel recomputes them: "
            f"{labelled(result.scores_again, Unit.MACS)} more if every attention is fused."
        )
        notes.append(Note(text, Level.INFO))
    if result.unreached:
        names = module_names(result.unreached_names, 6)
        notes.append(Note(f"{result.unreached:,} trainable parameters get no gradient: {names}.", Level.INFO))
    notes += uncounted_note(result.uncounted)
    return [*notes, *hidden_notes(result.hidden, result.depth, result.tree)]
