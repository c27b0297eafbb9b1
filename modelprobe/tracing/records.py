"""The records of one forward pass: plain values only, from which every question is answered.

A `Trace` holds what ran (`ops`, `calls`), what exists (`tree`), and what is needed to reproduce it (`env`).
Tensors appear as `TensorRef`: `value` says which value feeds which operator, `storage` which of them share memory.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from modelprobe.report.blocks import Fact, Facts, Level, Note, Report
from modelprobe.report.units import Unit

Shape = tuple[int, ...]
Status = Literal["counted", "free", "uncounted", "failed"]

WEIGHTED_KINDS = frozenset({"conv", "matmul", "attention", "rnn"})
"""Kinds that multiply by weights or mix positions; their outputs are what the field calls `activations`."""


@dataclass(frozen=True, slots=True)
class CoverageGap(Note):
    """A note of what a count may lack; `kind` names it: one of `GAPS`."""

    kind: str = ""


GAPS = {
    "silent layer": "a layer ran, and no operator of it was seen",
    "unknown data": "an operator read data that no operator made",
    "unread generator": "the forward returned a generator that nobody read",
    "unregistered parameters": "parameters were used that no module registers",
    "data-dependent": "the cost may depend on the data",
    "unused model": "no parameter of the model was used",
}
"""Kind of a gap -> the words of the coverage line."""


def coverage_gap(kind: str, text: str) -> CoverageGap:
    """A gap of a kind in `GAPS`, as a warning."""
    assert kind in GAPS
    return CoverageGap(text, Level.WARNING, kind)


class TensorRef(NamedTuple):
    """One value. The same `value` is the same data; views of one memory share `storage`.

    An operator that writes in place returns a new `value` on an old `storage`. `strides` are in elements, none for
    layouts that have none.
    """

    value: int
    storage: int
    shape: Shape
    dtype: str
    nbytes: int
    strides: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        """The number of elements."""
        return numel(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in memory in the order of their indices, without gaps."""
        expected = accumulate(reversed(self.shape[1:]), operator.mul, initial=1)
        steps = zip(reversed(self.shape), reversed(self.strides), expected, strict=False)
        return all(step == wanted for size, step, wanted in steps if size != 1) and bool(self.strides or not self.shape)


class OpCall(NamedTuple):
    """One call of an operator, at the level at which the model wrote it (`aten.linear`, not `aten.addmm`).

    `macs` are multiply-accumulates of contractions; `flops` is the arithmetic beside them. FLOPs in total are
    `2 * macs + flops`. `arguments` holds the call's arguments in order with None in the place of every tensor.
    `bound` is an upper bound on `macs` for an operator without a formula, 0 otherwise. `composite` is the index in
    `Trace.composites` of the outermost operator that was taken apart into this one, -1 for none. `gradient` is true of
    what autograd computes while the forward itself differentiates. `bytes_inside` is what its parts take at once beside
    its results. `side_writes` are values that it leaves in operands and does not return (running statistics).
    """

    name: str
    kind: str
    status: Status
    module: str
    call: int
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    macs: int
    flops: int
    bytes_read: int
    bytes_written: int
    bound: int
    arguments: tuple[Any, ...]
    composite: int = -1
    gradient: bool = False
    bytes_inside: int = 0
    side_writes: tuple[TensorRef, ...] = ()

    @property
    def activations(self) -> int:
        """Elements put out by a convolution, matrix product, attention or recurrent operator; 0 for the others."""
        return self.outputs[0].numel if self.kind in WEIGHTED_KINDS and self.outputs else 0


class OperatorValues(NamedTuple):
    """The finite values of an operator's first result in a run for real; `not_finite` counts the others. `said` is what
    had not been there before (`first NaN, from finite operands`, `first float64`), and `line` the source that called
    the operator then. `device` is where the result lies."""

    minimum: float | None
    maximum: float | None
    mean: float | None
    not_finite: int | None
    said: str
    line: str
    device: str


class StorageRecord(NamedTuple):
    """A block of memory that tensors of a run lie in, by the number of `TensorRef.storage`.

    `made` is the index of the operator at which it came up (-1: it was there before), `freed` that of the last one at
    which it was there (-1: still there at the end).
    """

    number: int
    nbytes: int
    made: int
    freed: int


class Composite(NamedTuple):
    """An operator that has no formula of its own and was recorded by its parts (`einsum` by its products)."""

    name: str
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    arguments: tuple[Any, ...]


class FunctionCall(NamedTuple):
    """A call of one of torch's Python functions, as the model's code spelled it (`F.relu`, `torch.mul`).

    `keys`, `shapes` and `arguments` have an entry per argument: the keyword or "", the shape of a tensor or None, the
    plain value or None. `op` is the first operator it ran. Recorded only when asked for.
    """

    name: str
    module: str
    call: int
    op: int
    keys: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    arguments: tuple[Any, ...]


class ModuleCall(NamedTuple):
    """One call of a module: the `number`-th of that module.

    Between its start and its end the operators `ops[first_op:end_op]` ran; `Trace.ops_of` gives its own, which are all
    of those unless other threads ran beside it.
    """

    path: str
    cls: str
    parent: int
    number: int
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    first_op: int
    end_op: int


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A parameter or buffer where it is registered. Entries with the same `identity` are one tensor,

    those with the same `storage` share memory. A parameter of a lazy module that has no shape yet is empty.
    """

    path: str
    owner: str
    role: Literal["parameter", "buffer"]
    shape: Shape
    dtype: str
    nbytes: int
    requires_grad: bool
    persistent: bool
    identity: int
    storage: int
    lazy: bool = False

    @property
    def numel(self) -> int:
        """The number of elements."""
        return numel(self.shape)


@dataclass(frozen=True, slots=True)
class ModuleNode:
    """A module where it stands in the tree. Nodes with the same `identity` are one module under several names.

    `home` is the Python module that defines the class.
    """

    path: str
    cls: str
    identity: int
    training: bool
    extra: str = ""
    home: str = ""

    @property
    def depth(self) -> int:
        """0 for the model itself."""
        return self.path.count(".") + 1 if self.path else 0

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class ModuleTree:
    """What exists in a model: its modules in pre-order and its parameters and buffers, every name of each."""

    modules: tuple[ModuleNode, ...]
    state: tuple[StateTensor, ...]

    @property
    def cls(self) -> str:
        """The class of the model."""
        return self.modules[0].cls

    def unique_state(self) -> Iterator[StateTensor]:
        """Every parameter and buffer once, at its first name."""
        seen: set[int] = set()
        for entry in self.state:
            if entry.identity not in seen:
                seen.add(entry.identity)
                yield entry

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Other names of a shared module -> its first name."""
        first: dict[int, str] = {}
        return {n.path: first[n.identity] for n in self.modules if first.setdefault(n.identity, n.path) != n.path}

    def parameter_count(self) -> int:
        """Parameters, tied and shared ones counted once."""
        return sum(entry.numel for entry in self.unique_state() if entry.role == "parameter")


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operator without a rule: how often it ran, where, and at most how many MACs its sizes allow."""

    name: str
    count: int
    modules: tuple[str, ...]
    bound: int


@dataclass(frozen=True)
class Trace:
    """One recorded forward pass. `named` says which values are inputs, parameters and buffers, by name; `output_names`
    where each output stands in the result (`aux[0]`, "" for all of it). `functions` is empty unless the recording was
    asked for them. `threads`: the forward ran in more than one."""

    tree: ModuleTree
    ops: tuple[OpCall, ...]
    calls: tuple[ModuleCall, ...]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    named: Mapping[int, str]
    changed: frozenset[str]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(default_factory=dict)
    composites: tuple[Composite, ...] = ()
    functions: tuple[FunctionCall, ...] = ()
    threads: bool = False
    storages: tuple[StorageRecord, ...] = ()
    output_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        name = self.env.get("model") or self.tree.cls
        return f"<Trace of {name}: {len(self.ops):,} operators, {len(self.calls):,} calls of modules>"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from modelprobe.report.formats.html import fragment

        facts = [Fact("Operators", len(self.ops), Unit.COUNT), Fact("Module calls", len(self.calls), Unit.COUNT)]
        facts += [Fact("MACs", self.macs, Unit.MACS), Fact("Peak memory", self.peak_bytes, Unit.BYTES)]
        for label, refs in (("Inputs", self.inputs), ("Outputs", self.outputs)):
            facts.append(Fact(label, tuple(ref.shape for ref in refs), Unit.SHAPE))
        title = f"{self.env.get('model') or self.tree.cls}: recorded forward pass"
        return fragment(Report(title, "modelprobe.trace", (Facts(tuple(facts)), *self.notes), env=self.env))

    @property
    def gaps(self) -> tuple[CoverageGap, ...]:
        """What the count may lack, beside operators without a rule."""
        return tuple(note for note in self.notes if isinstance(note, CoverageGap))

    def ops_of(self, number: int) -> tuple[OpCall, ...]:
        """The operators of the module call with that index in `calls`, those of the calls inside it included."""
        call = self.calls[number]
        found = self.ops[call.first_op : call.end_op]
        return tuple(op for op in found if self._is_inside(op.call, number)) if self.threads else found

    def _is_inside(self, call: int, outer: int) -> bool:
        while call > outer:
            call = self.calls[call].parent
        return call == outer

    @property
    def macs(self) -> int:
        """Multiply-accumulates of everything counted."""
        return sum(op.macs for op in self.ops)

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 per MAC and the elementwise ones."""
        return sum(2 * op.macs + op.flops for op in self.ops)

    @cached_property
    def peak_bytes(self) -> int | None:
        """The most that weights, buffers, inputs, results and the parts of operators take at once; what kernels take
        beside is no part of it. None of a trace whose storages are not known."""
        if not self.storages:
            return None
        change = [0] * (len(self.ops) + 2)
        for block in self.storages:
            change[max(block.made, 0)] += block.nbytes
            if block.freed >= 0:
                change[max(block.freed, block.made, 0) + 1] -= block.nbytes
        inside = (*(op.bytes_inside for op in self.ops), 0)
        return max(alive + more for alive, more in zip(accumulate(change), inside, strict=False))

    @cached_property
    def uncounted(self) -> tuple[Uncounted, ...]:
        """The operators without a rule, dearest bound first."""
        return uncounted(self.ops)

    @cached_property
    def uncalled(self) -> tuple[str, ...]:
        """Paths of modules that never ran and hold parameters or buffers, outermost only; containers whose members ran
        are not named."""
        holding = {above for entry in self.tree.state for above in parents(entry.path)}
        ran = {call.path for call in self.calls}
        alive = ran | {self.tree.aliases.get(path, path) for path in ran}
        # An operator may use a parameter of a module without calling it (weight passed to F.linear): that ran too.
        used = {ref.value for op in self.ops for ref in op.inputs}
        lending = [name for value, name in self.named.items() if value in used]
        alive.update(above for path in (*alive, *lending) for above in parents(path))
        dead: list[str] = []
        for node in self.tree.modules:
            known = self.tree.aliases.get(node.path, node.path)
            inside_dead = bool(dead) and node.path.startswith(dead[-1] + ".")
            if known not in alive and node.path not in alive and not inside_dead and node.path in holding:
                dead.append(node.path)
        return tuple(dead)

    @cached_property
    def call_counts(self) -> Mapping[str, int]:  # by path
        return Counter(call.path for call in self.calls)


def uncounted(ops: Iterable[OpCall]) -> tuple[Uncounted, ...]:
    """The operators without a rule among `ops`, dearest bound first."""
    without = [op for op in ops if op.status == "uncounted"]
    found = []
    for name in dict.fromkeys(op.name for op in without):
        calls = [op for op in without if op.name == name]
        modules = dict.fromkeys(op.module for op in calls)
        found.append(Uncounted(name, len(calls), tuple(modules), sum(op.bound for op in calls)))
    return tuple(sorted(found, key=lambda item: -item.bound))


def numel(shape: Iterable[int]) -> int:
    """The number of elements of a shape."""
    return math.prod(shape)


def parents(path: str) -> Iterator[str]:
    """The paths above `path`, nearest first, ending with the root (the empty path)."""
    while path:
        path = path.rpartition(".")[0]
        yield path
