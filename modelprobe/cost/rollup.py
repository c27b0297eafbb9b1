"""Sums of costs over a recorded model, as the rows of every cost report: modules, module calls, operators or kinds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from modelprobe.report.blocks import Fact, fitting_depth
from modelprobe.report.units import Unit
from modelprobe.tracing.records import ModuleTree, OpCall, StateTensor, Trace, parents

if TYPE_CHECKING:
    from modelprobe.cost.conventions.convention import CountedItem

C = TypeVar("C", bound="Amounts")
R = TypeVar("R")

ITSELF = "(itself)"
"""The row of what a module computes outside its children, so that the rows below a module add up to it."""


class Amounts:
    """The base of frozen dataclasses of numbers that add up field by field (`add_up`)."""

    __slots__: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally(Amounts):
    """What a set of operator calls costs together. `flops` includes two per MAC; bytes are moved, both ways."""

    ops: int = 0
    macs: int = 0
    flops: int = 0
    activations: int = 0
    bytes_moved: int = 0
    uncounted: int = 0


@dataclass(frozen=True, slots=True)
class StepCosts(Amounts):
    """MACs of each part of a training step, and FLOPs of all of it: two per MAC, and the elementwise ones.

    `input` are gradients of activations, `weight` those of parameters.
    """

    forward: int = 0
    input: int = 0
    weight: int = 0
    recomputed: int = 0
    flops: int = 0
    uncounted: int = 0

    @property
    def backward(self) -> int:
        """MACs of both kinds of gradient."""
        return self.input + self.weight

    @property
    def macs(self) -> int:
        """MACs of everything."""
        return self.forward + self.input + self.weight + self.recomputed


def tally_of(op: OpCall) -> Tally:
    """The cost of one operator call."""
    moved = op.bytes_read + op.bytes_written
    return Tally(1, op.macs, 2 * op.macs + op.flops, op.activations, moved, int(op.status == "uncounted"))


def add_up(costs: Iterable[C], zero: C) -> C:
    """The sum, field by field."""
    fields = attrgetter(*zero.__slots__)
    return type(zero)(*map(sum, zip(*map(fields, (zero, *costs)), strict=True)))


@dataclass(frozen=True, slots=True)
class CostPlace(Generic[C]):
    """One row, before a report gives it columns. `path` is the module's, None for what is no module."""

    name: str
    detail: str
    depth: int
    calls: int
    cost: C
    path: str | None = None
    same_as: str = ""


class Rollup(Generic[C]):
    """Costs of a trace added up in every way. `items` are operators (or what a tool counts) with their costs.

    `order` sorts rows: the most expensive has the least key. `beside` are costs of modules that no operator has.
    """

    def __init__(
        self,
        trace: Trace,
        items: Sequence[tuple[OpCall | CountedItem, C]],
        zero: C,
        order: Callable[[C], tuple[float, ...]],
        beside: Mapping[str, C] | None = None,
    ) -> None:
        self.trace, self.items, self.zero, self.order, self.beside = trace, items, zero, order, beside or {}

    @cached_property
    def total(self) -> C:
        """Everything."""
        return add_up((*(cost for _, cost in self.items), *self.beside.values()), self.zero)

    @cached_property
    def own(self) -> dict[str, C]:
        """Path -> what the module costs itself, outside its children."""
        found: dict[str, list[C]] = {}
        for item, cost in self.items:
            found.setdefault(item.module, []).append(cost)
        for path, cost in self.beside.items():
            found.setdefault(path, []).append(cost)
        return {path: add_up(costs, self.zero) for path, costs in found.items()}

    @cached_property
    def inside(self) -> dict[str, C]:
        """Path -> cost of the module and everything inside it; the root is the empty path."""
        found: dict[str, list[C]] = {}
        for path, cost in self.own.items():
            for place in (path, *parents(path)):
                found.setdefault(place, []).append(cost)
        return {path: add_up(costs, self.zero) for path, costs in found.items()}

    def rows(self, by: str, *, ranked: bool = False, itself: Callable[[C], bool] | None = None) -> list[CostPlace[C]]:
        """The rows by `module` or `call` (a tree; `ranked`: each by itself), `operator` or `kind`.

        A module with children gets a row for what it computes itself where `itself` says so.
        """
        if by == "operator":
            return self._groups(lambda item: item.name, lambda item: item.kind)
        if by == "kind":
            return self._groups(lambda item: item.kind, lambda item: getattr(item, "status", ""))
        if by == "call":
            return self._groups(self._call_name, self._class_of) if ranked else self._calls()
        return self._own_rows() if ranked else self._modules(itself)

    def _modules(self, itself: Callable[[C], bool] | None) -> list[CostPlace[C]]:
        """The tree in pre-order."""
        tree, calls, rows = self.trace.tree, self.trace.call_counts, []
        with_children = {node.path.rpartition(".")[0] for node in tree.modules if node.path}
        for node in tree.modules:
            path, name = node.path, node.name or model_name(self.trace)
            ran, cost = calls.get(path, 0), self.inside.get(path, self.zero)
            rows.append(CostPlace(name, node.cls, node.depth, ran, cost, path, tree.aliases.get(path, "")))
            if itself is not None and path in with_children and path in self.own and itself(self.own[path]):
                rows.append(CostPlace(ITSELF, "", node.depth + 1, ran, self.own[path], path))
        return rows

    def _own_rows(self) -> list[CostPlace[C]]:
        """Modules with what they cost themselves, under their full paths, by falling cost."""
        tree, ran = self.trace.tree, dict.fromkeys(self.own, 0)
        classes = {node.path: node.cls for node in tree.modules}
        for item, _ in self.items:
            ran[item.module] += 1
        rows = [CostPlace(p or tree.cls, classes.get(p, ""), 0, ran[p], cost, p) for p, cost in self.own.items()]
        return self._sorted(rows)

    def _calls(self) -> list[CostPlace[C]]:
        """Every call of a module in the order of execution, nested as they called each other."""
        trace = self.trace
        found: list[list[C]] = [[] for _ in trace.calls]
        for item, cost in self.items:
            if item.call >= 0:
                found[item.call].append(cost)
        costs = [self.zero] * len(found)
        for number in range(len(found) - 1, -1, -1):  # a call stands before those that it makes
            costs[number] = add_up(found[number], self.zero)
            above = trace.calls[number].parent
            if above >= 0:
                found[above].append(costs[number])
        rows: list[CostPlace[C]] = []
        for call, cost in zip(trace.calls, costs, strict=True):
            depth = rows[call.parent].depth + 1 if call.parent >= 0 else 0
            name = (call.path or trace.tree.cls) + (f" #{call.number}" if trace.call_counts[call.path] > 1 else "")
            rows.append(CostPlace(name, call.cls, depth, 1, cost, call.path))
        return rows

    def _groups(
        self, key: Callable[[OpCall | CountedItem], str], detail: Callable[[OpCall | CountedItem], str]
    ) -> list[CostPlace[C]]:
        groups: dict[str, list[tuple[OpCall | CountedItem, C]]] = {}
        for item, cost in self.items:
            groups.setdefault(key(item), []).append((item, cost))
        return self._sorted(
            [
                CostPlace(name, detail(found[0][0]), 0, len(found), add_up((cost for _, cost in found), self.zero))
                for name, found in groups.items()
            ]
        )

    def _sorted(self, rows: list[CostPlace[C]]) -> list[CostPlace[C]]:
        return sorted(rows, key=lambda row: (*self.order(row.cost), row.name))

    def _call_name(self, item: OpCall | CountedItem) -> str:
        if item.call < 0:
            return self.trace.tree.cls
        call = self.trace.calls[item.call]
        return f"{call.path or self.trace.tree.cls} #{call.number}"

    def _class_of(self, item: OpCall | CountedItem) -> str:
        return next((node.cls for node in self.trace.tree.modules if node.path == item.module), "")


def forward_rollup(trace: Trace) -> Rollup[Tally]:
    """The costs that modelprobe counts of a forward pass."""
    items = [(op, tally_of(op)) for op in trace.ops]
    return Rollup(trace, items, Tally(), lambda cost: (-cost.macs, -cost.flops, -cost.bytes_moved))


ALL_ROWS = sys.maxsize
"""The depth that leaves nothing out."""


def choose_rows(
    rows: Sequence[R], depth: int | None, top: int | None, *, tree: bool
) -> tuple[tuple[R, ...], int | None, int]:
    """The rows to show, to which depth, and how many are left out: the first `top`, or a tree to `depth`.

    Without either a tree is shown as deep as about forty rows go, with `ALL_ROWS` whole. Rows have a `depth`.
    """
    depths: list[int] = [getattr(row, "depth") for row in rows]  # noqa: B009 - R has no bound: rows are of many classes
    if top is not None:
        return tuple(rows[:top]), depth if depth != ALL_ROWS else None, max(0, len(rows) - top)
    if depth == ALL_ROWS:
        depth = max(depths, default=0) if tree else None
    if depth is None and tree:
        depth = fitting_depth(depths)
    shown = tuple(row for row, at in zip(rows, depths, strict=True) if depth is None or at <= depth)
    return shown, depth, len(rows) - len(shown)


def mode_facts(env: Mapping[str, Any]) -> tuple[Fact, ...]:
    """That a forward ran in training mode; in eval mode nothing is said."""
    return (Fact("Mode", "training, without a backward pass"),) if env.get("mode") == "train" else ()


def peak_fact(nbytes: int | None) -> tuple[Fact, ...]:
    """`Trace.peak_bytes`, where they are known."""
    what = "weights, inputs and results; `memory` adds kernels"
    return (Fact("Peak memory", nbytes, Unit.BYTES, what),) if nbytes is not None else ()


def model_name(trace: Trace) -> str:
    """What a report calls the model."""
    return str(trace.env.get("model", trace.tree.cls))


def input_texts(trace: Trace) -> tuple[str, ...]:
    """The inputs, as they were described or by shape and dtype."""
    described = trace.env.get("inputs")
    if described:
        return tuple(described)
    return tuple(f"{'x'.join(map(str, ref.shape)) or 'scalar'} {ref.dtype}" for ref in trace.inputs)


def state_inside(tree: ModuleTree) -> dict[str, dict[int, StateTensor]]:
    """Path -> the parameters and buffers registered in the module and below, each tensor once."""
    found: dict[str, dict[int, StateTensor]] = {}
    for entry in tree.state:
        for place in parents(entry.path):
            found.setdefault(place, {}).setdefault(entry.identity, entry)
    return found


def parameters_inside(tree: ModuleTree) -> dict[str, int]:
    """Path -> number of parameters in the module and below, each tensor once."""
    inside = state_inside(tree)
    return {p: sum(e.numel for e in found.values() if e.role == "parameter") for p, found in inside.items()}
