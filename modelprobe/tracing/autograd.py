"""Sees every operator of a forward and a backward pass under autograd, and which module each gradient belongs to.

Autograd gives every node of its graph the next number of a sequence. Whatever number a module found when it started
and when it ended, nodes in between were made by its forward; when the engine runs one, its number tells whose it is.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from modelprobe.tracing.dispatch import Observer, Operator
from modelprobe.tracing.formulas import Cost
from modelprobe.tracing.formulas.per_output_costs import PER_OUTPUT_COSTS, added
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.records import OpCall, TensorRef
from modelprobe.tracing.tensors import TensorNumbers, leaves

Phase = Literal["forward", "backward", "recomputation"]

_TAG = "modelprobe"
"""The key of what is written on a node that was made in another thread: the serial of the branch, the module's path."""

LEAF = "torch::autograd::AccumulateGrad"
"""The node that keeps the gradient of a leaf, such as a parameter; no forward made it."""


class Numbered(Running):
    """Which module is running, and from which of autograd's numbers on it did."""

    def __init__(self, ops: Callable[[], int], seen: Callable[[Tensor], bool]) -> None:
        super().__init__(ops, seen)
        self._starts: dict[int, int] = {}  # call -> the number that autograd had come to, in a branch
        # Every thread of the engine counts for itself.
        self._marks: dict[int, tuple[list[int], list[str]]] = {}

    def enter(self, paths: Sequence[str], cls: str, inputs: tuple[tuple[int, ...], ...]) -> None:
        """A module starts."""
        super().enter(paths, cls, inputs)
        if self.serial:
            self._starts[self.stack[-1]] = next_number()
        self._mark()

    def leave(self, outputs: Any, layer: bool = False) -> None:
        """A module ends."""
        if self.serial and self.stack:
            self._tag(outputs, self.where()[0], self._starts.pop(self.stack[-1]))
        super().leave(outputs, layer)
        self._mark()

    def _tag(self, outputs: Any, path: str, start: int) -> None:
        """Write on the nodes that a module made in another thread whose they are: their numbers are not unique."""
        nodes = [tensor.grad_fn for _, tensor in leaves(outputs)]
        while nodes:
            node: Any = nodes.pop()
            if node is None or node.name() == LEAF or node._sequence_nr() < start or _TAG in node.metadata:
                continue
            node.metadata[_TAG] = (self.serial, path)
            nodes.extend(following for following, _ in node.next_functions)

    def _mark(self) -> None:
        numbers, owners = self._marks.setdefault(self.serial or threading.get_ident(), ([], []))
        numbers.append(next_number())
        owners.append(self.where()[0])

    def owner(self, number: int, thread: int) -> str:
        """The path of the module that was running when the node with that number was made."""
        numbers, owners = self._marks.get(thread, ([], []))
        place = bisect_right(numbers, number)
        return owners[place - 1] if place else ""


def next_number() -> int:
    """What autograd will call the next node that this thread makes."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number


@contextmanager
def above_autograd() -> Iterator[None]:
    """Let autograd record what runs in the body, as before the dispatcher reached us."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in ("AutogradCPU", "AutogradCUDA", "AutogradMeta", "AutogradMPS", "AutogradOther", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield


def where_differentiated(running: Numbered) -> Callable[[], tuple[str, int]]:
    """Where an operator belongs while a forward may differentiate: a gradient to the module whose forward it is of."""

    def where() -> tuple[str, int]:
        path, call = running.where()
        node: Any = torch._C._current_autograd_node()
        if node is None or node.name() == LEAF:
            return path, call
        return running.owner(node._sequence_nr(), threading.get_ident()) or path, call

    return where


class Step(NamedTuple):
    """What is known of one operator beside its record.

    `node` and `number` (of a thread) are those of autograd's node that was running, in a backward pass.
    `weights_only`: nothing it computes from or for depends on the model's input, but on parameters alone.
    `output_costs` is the cost of each tensor that it put out, for an operator that computes several gradients.
    """

    op: OpCall
    phase: Phase
    node: str
    number: tuple[int, int]
    weights_only: bool
    output_costs: tuple[Cost, ...]


class GradientObserver(Observer):
    """The dispatch mode while autograd records and while its engine runs. `steps` grows with every operator."""

    def __init__(self, values: TensorNumbers, running: Numbered, parameters: dict[int, str], meta: bool) -> None:
        super().__init__(values, self._where_now, meta)
        self.steps: list[Step] = []
        self.backward = False
        self._running = running
        self._parameters = parameters  # id of a parameter -> path of the module that holds it
        self._thread = threading.get_ident()
        self._task = -1  # the engine's outermost run
        self._data: set[int] = set()  # memories that hold something computed from the input
        self._made: dict[tuple[int, int], bool] = {}  # thread, number of a node -> whether parameters alone went in
        self._functions: set[tuple[int, int]] = set()  # nodes that stand for a whole function

    def depends_on_input(self, tensors: Iterable[Tensor]) -> None:
        """What is computed from these tensors is data; everything else stems from parameters alone."""
        self._data.update(self.values.get(tensor).storage for tensor in tensors)

    def start_backward(self) -> None:
        """From now on operators belong to the backward pass."""
        self.backward = self._running.anywhere = True

    def twin(self, running: Running) -> GradientObserver:
        """As for every observer."""
        twin = super().twin(running)
        assert isinstance(twin, GradientObserver)
        assert isinstance(running, Numbered)
        twin._running, twin._where = running, twin._where_now
        return twin

    def last_place(self) -> str:
        """The path of the module whose gradient was computed last."""
        return self.steps[-1].op.module if self.steps else ""

    def _by_parts(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What runs inside is differentiated as any other code: here, below autograd, it would not be."""
        with above_autograd():
            return super()._by_parts(operator, args, kwargs)

    def _record(
        self,
        operator: Operator,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        refs: tuple[TensorRef, ...],
        memories: dict[int, int],
        out: Any,
    ) -> OpCall:
        op = super()._record(operator, args, kwargs, refs, memories, out)
        phase = self._phase()
        node = torch._C._current_autograd_node() if self.backward else None
        number = (self._maker(node), node._sequence_nr()) if node is not None else (0, -1)
        if phase == "backward":
            only = node is not None and self._is_of_weights(node, number)
        else:
            only = not any(ref.storage in self._data for ref in op.inputs)
            if not only:
                self._data.update(ref.storage for ref in op.outputs)
            self._note_node(only, args)
        costs = _output_costs(operator, args, kwargs, out, op)
        self.steps.append(Step(op, phase, node.name() if node is not None else "", number, only, costs))
        return op

    def _phase(self) -> Phase:
        """Nodes of the engine run without recording gradients: what records any, or runs a module, is a forward."""
        if not self.backward:
            return "forward"
        return "recomputation" if self._running.stack or torch.is_grad_enabled() else "backward"

    def _note_node(self, only_weights: bool, args: Sequence[Any]) -> None:
        """The node of this operator is the last one made, if the operator is the first to run after it.

        The forward of a `torch.autograd.Function` runs without recording: its node stands for all that runs in it.
        """
        key = (self._running.serial or threading.get_ident(), next_number() - 1)
        if torch.is_grad_enabled():
            if any(_wants_gradient(arg) for arg in args):
                self._made.setdefault(key, only_weights)
        elif key not in self._made:
            self._made[key] = only_weights
            self._functions.add(key)
        elif key in self._functions:
            self._made[key] &= only_weights

    def _is_of_weights(self, node: Any, number: tuple[int, int]) -> bool:
        if node.name() == LEAF:  # of a parameter; a checkpoint's inputs are leaves as well
            return id(node.variable) in self._parameters
        return self._made.get(number, False)

    def _maker(self, node: Any) -> int:
        """The thread that made a node of the engine's current run: a nested run has those of its own thread."""
        if self.threads and _TAG in node.metadata:
            serial: int = node.metadata[_TAG][0]
            return serial
        task = torch._C._current_graph_task_id()
        if task >= 0 and self._task < 0:
            self._task = task
        return self._thread if task in (-1, self._task) else threading.get_ident()

    def _where_now(self) -> tuple[str, int]:
        """The running module; in a backward pass the one whose forward made the node that is running."""
        if not self.backward or self._running.stack:
            return self._running.where()
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return "", -1
        if node.name() == LEAF:
            return self._parameters.get(id(node.variable), ""), -1
        if self.threads and _TAG in node.metadata:
            return node.metadata[_TAG][1], -1
        return self._running.owner(node._sequence_nr(), self._maker(node)), -1


def _wants_gradient(arg: Any) -> bool:
    if isinstance(arg, Tensor):
        return arg.requires_grad
    return isinstance(arg, (list, tuple)) and any(isinstance(item, Tensor) and item.requires_grad for item in arg)


def _output_costs(
    operator: Operator, args: Sequence[Any], kwargs: dict[str, Any], out: Any, op: OpCall
) -> tuple[Cost, ...]:
    """The costs of the tensors that came out; of what did not come out nothing was asked. Their sum is that of `op`."""
    rule = PER_OUTPUT_COSTS.get(operator.name.replace(".", "::", 1))
    if rule is None or not isinstance(out, (list, tuple)):
        return ()
    try:
        costs = rule(*args, out=out, **kwargs)
    except Exception:  # noqa: BLE001 - the same formula, asked for the sum, has told the reader already
        return ()
    plain = added(costs)  # on complex numbers the operator costs a multiple of it
    macs, flops = op.macs // (plain.macs or 1), op.flops // (plain.flops or 1)
    found = (cost for cost, item in zip(costs, out, strict=False) if isinstance(item, Tensor))
    return tuple(Cost(cost.macs * macs, cost.flops * flops) for cost in found)


def weight_parts(steps: Sequence[Step]) -> list[Cost]:
    """How much of each step went into gradients of parameters alone.

    A result is such a gradient when nothing takes it but nodes of weights (a parameter, its transpose, its
    standardisation), or operators of the same node whose results are. Read from the ledger's end.
    """
    takers: dict[int, list[int]] = {}
    gives: set[int] = set()  # steps whose every result is a weight's gradient
    parts = [Cost()] * len(steps)
    for number in range(len(steps) - 1, -1, -1):
        step = steps[number]
        if step.phase != "backward":
            continue
        weights = [
            step.weights_only or _weights_take(takers.get(ref.value), step, steps, gives) for ref in step.op.outputs
        ]
        for ref in step.op.inputs:
            takers.setdefault(ref.value, []).append(number)
        if weights and all(weights):
            gives.add(number)
            parts[number] = Cost(step.op.macs, step.op.flops)
        elif len(step.output_costs) == len(weights):
            parts[number] = added([cost for cost, weight in zip(step.output_costs, weights, strict=True) if weight])
    return parts


def _weights_take(takers: Sequence[int] | None, giver: Step, steps: Sequence[Step], gives: set[int]) -> bool:
    return bool(takers) and all(
        number in gives if _same_node(steps[number], giver) else steps[number].weights_only for number in takers or ()
    )


def _same_node(taker: Step, giver: Step) -> bool:
    # What two nodes send to a third is summed by the engine, which does so while the second of them is the current one.
    return taker.number == giver.number or taker.op.name in ("aten.add", "aten.add_")
