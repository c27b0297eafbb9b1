"""What does one training step cost: forward, backward, recomputation and the optimiser, and where?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from modelprobe.cost.flops import not_counted, some, uncounted_table
from modelprobe.cost.optimizers import find_optimizer
from modelprobe.cost.patterns import matching, split_patterns
from modelprobe.cost.rollup import fitting_depth
from modelprobe.cost.training_costs import OWN, StepLedger, TrainingRow
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact, labelled, size
from modelprobe.tracing.module_tree import read_tree
from modelprobe.tracing.prepare import unwrapped
from modelprobe.tracing.records import ModuleTree, OpCall, Trace, Uncounted
from modelprobe.tracing.training import TrainingTrace

BY = ("module", "operator", "kind")


@dataclass(frozen=True, slots=True)
class Pass:
    """One part of the step: MACs, and FLOPs, two per MAC and the elementwise ones."""

    macs: int
    flops: int


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """The update of every parameter that received a gradient.

    `state_bytes` is what the optimiser keeps between steps, `gradient_bytes` what the gradients take.
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
        blocks: list[Block] = [Facts(_facts(self)), _table(self)]
        if self.uncounted:
            blocks.append(uncounted_table(self.uncounted))
        title = f"{self.model}: cost of one training step"
        return Report(title, "modelprobe.flops-train/1", (*blocks, *_notes(self)), self.to_dict(), self.env)


def count_training(
    trace: TrainingTrace,
    *,
    optimizer: str = "sgd",
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
) -> TrainingResult:
    """The cost of the step that `trace` recorded and of the update by `optimizer`, by module, operator or kind.

    `depth` and `top` are as in `count_flops`. Raises BadInput for an unknown optimiser or grouping.
    """
    ledger = StepLedger(trace, find_optimizer(optimizer))
    rows, shown, hidden = _chosen(ledger, by, depth, top)
    total, forward = ledger.total(), trace.forward
    return TrainingResult(
        str(forward.env.get("model", forward.tree.cls)),
        _inputs(forward),
        *_passes(trace),
        optimizer=_update(ledger),
        macs=total.macs,
        flops=total.flops,
        parameters=forward.tree.parameter_count(),
        frozen=_elements(forward.tree, trace.frozen),
        unreached=_elements(forward.tree, trace.unreached),
        unreached_names=trace.unreached,
        summed=trace.summed,
        scores_again=_scores_again(forward),
        operators=len(ledger.costs),
        uncounted=trace.uncounted,
        by=by,
        depth=shown,
        tree=top is None and by == "module",
        hidden=hidden,
        rows=rows,
        notes=(*trace.notes, *_mismatch(trace), *_modes(forward)),
        env=forward.env,
    )


def _chosen(
    ledger: StepLedger, by: str, depth: int | None, top: int | None
) -> tuple[tuple[TrainingRow, ...], int | None, int]:
    """The rows to show, to which depth, and how many are left out."""
    if by not in BY:
        raise BadInput(f"--by {by} is not known", f"choose one of {', '.join(BY)}")
    everything = ledger.rows(by, ranked=top is not None)
    if top is not None:
        return tuple(everything[:top]), depth, max(0, len(everything) - top)
    if depth is None and by == "module":
        depth = fitting_depth(row.depth for row in everything)
    rows = tuple(row for row in everything if depth is None or row.depth <= depth)
    return rows, depth, len(everything) - len(rows)


def _elements(tree: ModuleTree, names: Collection[str]) -> int:
    """Elements of the parameters that go by these names, each tensor once."""
    return sum(entry.numel for entry in tree.unique_state() if entry.role == "parameter" and entry.path in names)


def frozen_names(model: nn.Module, freeze: Sequence[str]) -> frozenset[str]:
    """The parameters that patterns such as `"layer1.*,bn*"` name. Raises BadInput for one that names nothing."""
    inner, _ = unwrapped(model)
    paths = [entry.path for entry in read_tree(inner).state if entry.role == "parameter"]
    return matching(paths, split_patterns(freeze))


def _inputs(trace: Trace) -> tuple[str, ...]:
    described = trace.env.get("inputs")
    if described:
        return tuple(described)
    return tuple(f"{'x'.join(map(str, ref.shape)) or 'scalar'} {ref.dtype}" for ref in trace.inputs)


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


def _update(ledger: StepLedger) -> OptimizerStep:
    rule, nbytes = ledger.optimizer, sum(entry.nbytes for entry in ledger.updated)
    return OptimizerStep(
        name=rule.name,
        rule=rule.rule,
        flops_per_element=rule.flops,
        tensors=len(ledger.updated),
        elements=ledger.elements,
        flops=rule.flops * ledger.elements,
        gradient_bytes=nbytes,
        state_bytes=rule.states * nbytes,
    )


def _scores_again(trace: Trace) -> int:
    """L x S x E for every attention: what one more Q K^T of each would cost."""
    total = 0
    for op in trace.ops:
        if op.name == "aten.scaled_dot_product_attention" and len(op.inputs) > 2 and op.outputs[0].shape[-1]:
            rows = op.outputs[0].numel // op.outputs[0].shape[-1]
            total += rows * op.inputs[1].shape[-2] * op.inputs[0].shape[-1]
    return total


def _mismatch(trace: TrainingTrace) -> list[Note]:
    """A forward that costs something else the second time: it chooses at random, or its parts count otherwise."""
    if trace.forward_macs == trace.forward.macs:
        return []
    text = (
        f"Recorded again under autograd, operator by operator, the forward has {trace.forward_macs:,} MACs, not "
        f"{trace.forward.macs:,}: the backward pass belongs to that one."
    )
    return [Note(text, Level.WARNING)]


def _modes(trace: Trace) -> list[Note]:
    """What makes the forward of training another one than that of inference."""
    norms = sum("batch_norm" in op.name and op.arguments[5:6] == (True,) for op in trace.ops)
    drops = sum(op.name.endswith("dropout") and bool(op.arguments[1:2] and op.arguments[1]) for op in trace.ops)
    said = [f"batch norm by the batch's own statistics ({norms} x)"] if norms else []
    said += [f"dropout ({drops} x)"] if drops else []
    return [Note(f"The forward is that of training mode: {', '.join(said)}.", Level.INFO)] if said else []


def _facts(result: TrainingResult) -> tuple[Fact, ...]:
    step, again = result.optimizer, result.recomputation
    times = f", {result.ratio:.3f} x the forward's MACs" if result.ratio is not None else ""
    facts = [
        Fact("Input", ", ".join(result.inputs) or "none"),
        _fact("Forward", result.forward, ""),
        _fact("Backward", result.backward, times),
        _fact("Input grads", result.input_gradients, ", of activations"),
        _fact("Weight grads", result.weight_gradients, ", of parameters"),
    ]
    if again.flops:
        facts.append(_fact("Recomputed", again, ", computed again (checkpointing)"))
    each = f"{step.name}, {step.flops_per_element} FLOPs per trained parameter"
    missing = sum(item.count for item in result.uncounted)
    return (
        *facts,
        Fact("Optimiser", step.flops, Unit.FLOPS, each),
        Fact(
            "One step",
            result.macs,
            Unit.MACS,
            f"{exact(result.macs)}; {labelled(result.flops, Unit.FLOPS)}".lstrip("; "),
        ),
        Fact("Trained", step.elements, Unit.QUANTITY, f"{step.elements:,} of {result.parameters:,} parameters"),
        Fact(
            "Kept",
            step.gradient_bytes + step.state_bytes,
            Unit.BYTES,
            f"{size(step.gradient_bytes)} of gradients, {size(step.state_bytes)} of optimiser state",
        ),
        Fact("Coverage", f"{result.operators - missing} operators counted, {missing} not"),
    )


def _fact(label: str, part: Pass, more: str) -> Fact:
    return Fact(label, part.macs, Unit.MACS, f"{labelled(part.flops, Unit.FLOPS)}{more}")


_FIRST = {"module": "Module", "operator": "Operator", "kind": "Kind"}
_SECOND = {"module": "Class", "operator": "Kind", "kind": "Status"}


def _table(result: TrainingResult) -> Table:
    recomputed = result.recomputation.macs > 0
    columns = [
        Column(result.by, _FIRST[result.by]),
        Column("detail", _SECOND[result.by], priority=2 if result.by == "module" else 4),
        *([] if result.by == "module" else [Column("calls", "Ops", Unit.COUNT, priority=3)]),
        *([Column("trained", "Trained", Unit.QUANTITY, priority=7)] if result.by == "module" else []),
        Column("forward", "Forward MACs", Unit.MACS),
        Column("backward", "Backward MACs", Unit.MACS),
        Column("input", "Input-grad MACs", Unit.MACS, priority=5),
        Column("weight", "Weight-grad MACs", Unit.MACS, priority=6),
        *([Column("recomputed", "Recomputed MACs", Unit.MACS, priority=1)] if recomputed else []),
        Column("share", "Share", Unit.SHARE, priority=1 if result.by == "module" else 2, bar=True),
        Column("flops", "FLOPs", Unit.FLOPS, priority=3 if result.by == "module" else 1),
    ]
    rows = tuple(
        Row(
            (row.name, *(_cell(row, column.key) for column in columns[1:])),
            depth=row.depth if result.tree else 0,
            mark=_mark(row, result),
            quiet=row.cost.flops == 0,
        )
        for row in result.rows
    )
    return Table(tuple(columns), rows, tree=result.tree)


def _cell(row: TrainingRow, key: str) -> Cell:
    found: Cell = getattr(row, key) if key in TrainingRow.__slots__ else getattr(row.cost, key)
    return found


def _mark(row: TrainingRow, result: TrainingResult) -> str:
    marks = [f"{row.cost.uncounted} uncounted"] if row.cost.uncounted else []
    if row.same_as:
        marks.append(f"is {row.same_as}")
    if result.tree and row.name != OWN and row.calls > 1:
        marks.append(f"called x{row.calls}")
    return ", ".join(marks)


def _notes(result: TrainingResult) -> list[Note]:
    many = "the output" if len(result.summed) == 1 else f"{len(result.summed)} outputs ({some(result.summed, 4)})"
    notes = [
        *result.notes,
        Note(f"The backward pass starts from the sum of {many}; no other loss is counted.", Level.INFO),
    ]
    if result.scores_again:
        text = (
            "Attention is counted with its scores kept for the backward pass. A fused kernel computes them once more: "
            f"{labelled(result.scores_again, Unit.MACS)} more if every attention does."
        )
        notes.append(Note(text, Level.INFO))
    if result.unreached:
        text = f"{result.unreached:,} parameters want a gradient and get none: {some(result.unreached_names, 6)}."
        notes.append(Note(text, Level.INFO))
    if result.uncounted:
        notes.append(not_counted(result.uncounted))
    if result.hidden and result.tree:
        notes.append(Note(f"Shown to depth {result.depth}; {result.hidden} rows lie deeper (--depth).", Level.INFO))
    elif result.hidden:
        notes.append(Note(f"{result.hidden} more rows are not shown (--top).", Level.INFO))
    return notes
