"""What tools that look at modules see: module calls with their exact class, what ran inside, and rules by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from modelprobe.cost.conventions.convention import CountedItem
from modelprobe.tracing.records import ModuleCall, ModuleNode, OpCall, Shape, TensorRef, Trace


class Seen(NamedTuple):
    """A module call as a hook sees it. `parameters` are the module's own: (name, elements)."""

    number: int
    call: ModuleCall
    node: ModuleNode
    ops: tuple[OpCall, ...]
    parameters: tuple[tuple[str, int], ...]

    @property
    def input(self) -> Shape:
        """The shape of the first tensor given."""
        return self.call.inputs[0] if self.call.inputs else ()

    @property
    def output(self) -> Shape:
        """The shape of the first tensor returned."""
        return self.call.outputs[0] if self.call.outputs else ()

    def operator(self, *names: str) -> OpCall | None:
        """The first operator inside that has one of these names."""
        return next((op for op in self.ops if op.name.removesuffix("_") in names), None)

    def weight(self) -> TensorRef | None:
        """The second operand of the dearest operator inside: the weight of a convolution or a linear layer."""
        op = max(self.ops, key=lambda op: op.macs, default=None)
        return op.inputs[1] if op is not None and op.macs and len(op.inputs) > 1 else None

    def items(self, amount: float) -> Iterator[CountedItem]:
        """The amount, parted over the kinds of operators that the module itself runs, in proportion to their MACs.

        Without any it is of the kind of the dearest operator inside.
        """
        macs: Counter[str] = Counter()
        for op in self.ops:
            if op.module == self.call.path and op.macs:
                macs[op.kind] += op.macs
        if not macs:
            dearest = max(self.ops, key=lambda op: (op.macs, op.flops), default=None)
            macs = Counter({dearest.kind if dearest is not None else "none": 1})
        total, left = sum(macs.values()), amount
        for number, (kind, share) in enumerate(macs.items(), 1):
            part = left if number == len(macs) else amount * share // total
            left -= part
            yield CountedItem(self.node.cls, kind, self.call.path, self.number, -1, part)


def seen(trace: Trace) -> Iterator[Seen]:
    """Every module call in the order in which it began."""
    nodes, own = {node.path: node for node in trace.tree.modules}, parameters(trace)
    for number, call in enumerate(trace.calls):
        node = nodes.get(call.path)
        if node is not None:
            yield Seen(number, call, node, trace.ops_of(number), own.get(call.path, ()))


def children(trace: Trace) -> Mapping[str, tuple[ModuleNode, ...]]:
    """Path -> the modules directly below, each once, as `named_children` lists them."""
    found: dict[str, dict[int, ModuleNode]] = {}
    for node in trace.tree.modules:
        if node.path:
            found.setdefault(node.path.rpartition(".")[0], {}).setdefault(node.identity, node)
    return {path: tuple(below.values()) for path, below in found.items()}


def parameters(trace: Trace) -> Mapping[str, tuple[tuple[str, int], ...]]:
    """Path -> the module's own parameters: (name, elements), a tensor once."""
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for entry in trace.tree.state:
        if entry.role == "parameter":
            path, _, name = entry.path.rpartition(".")
            found.setdefault(path, {}).setdefault(entry.identity, (name, entry.numel))
    return {path: tuple(own.values()) for path, own in found.items()}


ModuleRule = Callable[[Seen], float]
ModuleRules = Mapping[tuple[str, str], ModuleRule]
"""(package or module that defines a class, class) -> its rule. A subclass is another class."""


def torch_nn(classes: str, rule: ModuleRule) -> dict[tuple[str, str], ModuleRule]:
    """One rule for several classes of torch.nn."""
    return {("torch.nn.modules", name): rule for name in classes.split()}


def rule_of(node: ModuleNode, rules: ModuleRules) -> ModuleRule | None:
    """The rule of a module's exact class."""
    home = "torch.nn.modules" if node.home.startswith("torch.nn.modules.") else node.home
    return rules.get((home, node.cls))


def visits(trace: Trace, enter: Callable[[ModuleNode], bool]) -> Mapping[int, int]:
    """Module -> how often a walk from the model meets it that looks into what `enter` says.

    Two names of a module in the same parent are one.
    """
    below = children(trace)
    found: Counter[int] = Counter()
    stack = [trace.tree.modules[0]]
    while stack:
        node = stack.pop()
        found[node.identity] += 1
        if enter(node):
            stack.extend(below.get(node.path, ()))
    return found
