"""Sums over the ledger of a training step: what a module, an operator or a kind costs in each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from modelprobe.cost.optimizers import Optimizer
from modelprobe.tracing.records import ModuleNode, OpCall, StateTensor, parents
from modelprobe.tracing.training import TrainingTrace

OWN = "(itself)"
"""The row of what a module computes outside its children, so that the rows below a module add up to it."""

UPDATE = "(optimiser)"
"""The row of the update, which no operator of either pass computes."""


@dataclass(frozen=True, slots=True)
class Costs:
    """MACs of each part of a step, and FLOPs of all of it: two per MAC, and the elementwise ones.

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

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            self.forward + other.forward,
            self.input + other.input,
            self.weight + other.weight,
            self.recomputed + other.recomputed,
            self.flops + other.flops,
            self.uncounted + other.uncounted,
        )


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A module with everything inside it, an operator or a kind. `trained` counts the parameters that are updated.

    `share` is of the step's MACs (of its FLOPs when nothing is a MAC). The FLOPs of a module have its update in them.
    """

    name: str
    detail: str
    depth: int
    calls: int
    cost: Costs
    trained: int | None
    share: float = 0.0
    same_as: str = ""


class StepLedger:
    """Every operator of a step beside what it costs in which pass, and the parameters that are updated."""

    def __init__(self, trace: TrainingTrace, optimizer: Optimizer) -> None:
        self.trace = trace
        self.optimizer = optimizer
        self.tree = trace.forward.tree
        self.costs: list[tuple[OpCall, Costs]] = [*_forward(trace), *_backward(trace)]
        self.updated: list[StateTensor] = [
            entry for entry in self.tree.unique_state() if entry.role == "parameter" and entry.path in trace.trained
        ]

    @property
    def elements(self) -> int:
        """How many parameters are updated."""
        return sum(entry.numel for entry in self.updated)

    def total(self) -> Costs:
        """The whole step, its update included."""
        update = Costs(flops=self.optimizer.flops * self.elements)
        return added((*(cost for _, cost in self.costs), update))

    def rows(self, by: str, ranked: bool) -> list[TrainingRow]:
        """The rows by `module` (the tree; `ranked`: what each computes itself, by cost), `operator` or `kind`."""
        if by == "module":
            found = self._ranked_modules() if ranked else self._modules()
        elif by == "operator":
            found = [*self._groups(lambda op: op.name, lambda op: op.kind), self._update_row()]
        else:
            found = [*self._groups(lambda op: op.kind, lambda op: op.status), self._update_row()]
        total = self.total()
        whole, part = (total.macs, "macs") if total.macs else (total.flops, "flops")
        return [replace(row, share=getattr(row.cost, part) / whole if whole else 0.0) for row in found]

    def _update_row(self) -> TrainingRow:
        cost = Costs(flops=self.optimizer.flops * self.elements)
        return TrainingRow(UPDATE, self.optimizer.name, 0, 1, cost, self.elements)

    def _groups(self, key: Callable[[OpCall], str], detail: Callable[[OpCall], str]) -> list[TrainingRow]:
        groups: dict[str, list[tuple[OpCall, Costs]]] = {}
        for op, cost in self.costs:
            groups.setdefault(key(op), []).append((op, cost))
        rows = [
            TrainingRow(name, detail(found[0][0]), 0, len(found), added(cost for _, cost in found), None)
            for name, found in groups.items()
        ]
        return sorted(rows, key=lambda row: (-row.cost.macs, -row.cost.flops, row.name))

    def _ranked_modules(self) -> list[TrainingRow]:
        classes = {node.path: node.cls for node in self.tree.modules}
        own, trained = self._own(), self._trained(inside=False)
        rows = [
            TrainingRow(path or self.tree.cls, classes.get(path, ""), 0, 0, cost, trained.get(path, 0))
            for path, cost in own.items()
        ]
        return sorted(rows, key=lambda row: (-row.cost.macs, -row.cost.flops, row.name))

    def _modules(self) -> list[TrainingRow]:
        """The tree in pre-order. A module with children that computes something itself gets a row for that."""
        own = self._own()
        inside: dict[str, Costs] = {}
        for path, cost in own.items():
            for place in (path, *parents(path)):
                inside[place] = inside.get(place, Costs()) + cost
        trained, mine = self._trained(inside=True), self._trained(inside=False)
        with_children = {node.path.rpartition(".")[0] for node in self.tree.modules if node.path}
        rows: list[TrainingRow] = []
        for node in self.tree.modules:
            rows.append(self._module(node, inside.get(node.path, Costs()), trained.get(node.path, 0)))
            itself = own.get(node.path, Costs())
            if node.path in with_children and itself.macs:
                rows.append(TrainingRow(OWN, "", node.depth + 1, 0, itself, mine.get(node.path, 0)))
        return rows

    def _module(self, node: ModuleNode, cost: Costs, trained: int) -> TrainingRow:
        forward = self.trace.forward
        name = node.name or str(forward.env.get("model", self.tree.cls))
        calls, same_as = forward.call_counts.get(node.path, 0), self.tree.aliases.get(node.path, "")
        return TrainingRow(name, node.cls, node.depth, calls, cost, trained, same_as=same_as)

    def _own(self) -> dict[str, Costs]:
        """Path -> what the module computes itself, and the update of its own parameters."""
        found: dict[str, Costs] = {}
        for op, cost in self.costs:
            found[op.module] = found.get(op.module, Costs()) + cost
        for path, count in self._trained(inside=False).items():
            found[path] = found.get(path, Costs()) + Costs(flops=self.optimizer.flops * count)
        return found

    def _trained(self, inside: bool) -> dict[str, int]:
        """Path -> updated parameters registered there, or there and below; shared ones at their first name."""
        found: dict[str, int] = {}
        for entry in self.updated:
            places = list(parents(entry.path))
            for place in places if inside else places[:1]:
                found[place] = found.get(place, 0) + entry.numel
        return found


def added(costs: Iterable[Costs]) -> Costs:
    """The sum."""
    total = Costs()
    for cost in costs:
        total = total + cost
    return total


def _forward(trace: TrainingTrace) -> list[tuple[OpCall, Costs]]:
    return [
        (op, Costs(forward=op.macs, flops=2 * op.macs + op.flops, uncounted=int(op.status == "uncounted")))
        for op in trace.forward.ops
    ]


def _backward(trace: TrainingTrace) -> list[tuple[OpCall, Costs]]:
    found = []
    for op, phase, _, weight, _ in trace.gradients:
        again = phase == "recomputation"
        cost = Costs(
            input=0 if again else op.macs - weight,
            weight=weight,
            recomputed=op.macs if again else 0,
            flops=2 * op.macs + op.flops,
            uncounted=int(op.status == "uncounted"),
        )
        found.append((op, cost))
    return found
