"""The answer of `modelprobe compare`: models side by side, in total, by kind of operator, or layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from modelprobe.cost.rollup import forward_rollup, input_texts, parameters_inside
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.records import WEIGHTED_KINDS, Trace


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One model's totals. `layers` are calls of convolutions, matrix products, attention and recurrent layers; `kinds`
    MACs by kind of operator; `top1` the published accuracy in percent, None where nobody published one; `memory` the
    peak of weights, buffers, inputs and results in one inference in bytes."""

    target: str
    inputs: tuple[str, ...]
    parameters: int
    macs: int
    flops: int
    activations: int
    bytes_moved: int
    operators: int
    layers: int
    uncounted: int
    kinds: Mapping[str, int]
    top1: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """A module that stands in both models, or in one; None is a figure of a module that is not there.

    `change` is `same`, `changed`, `only in A` or `only in B`.
    """

    name: str
    depth: int
    parameters: tuple[int | None, int | None]
    macs: tuple[int | None, int | None]
    change: str


@dataclass(frozen=True, slots=True)
class CompareResult(Result):
    """Models side by side; with `layers`, two of them layer by layer."""

    models: tuple[ComparedModel, ...]
    layers: tuple[ComparedLayer, ...] = ()
    plot: str | None = None
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """A row for each model, MACs by kind, the aligned trees, notes."""
        blocks: list[Block] = [_totals(self.models), _kinds(self.models)]
        if self.layers:
            counts = Counter(layer.change for layer in self.layers)
            blocks.append(Facts(tuple(Fact(change, count, Unit.COUNT) for change, count in counts.items()), "Modules"))
            blocks.append(_aligned_table(self.layers))
        if self.plot:
            blocks.append(Figure(Path(self.plot), "costs, of the largest each"))
        return self.blocks_report(
            "Comparison", "modelprobe.compare/1", *blocks, *self.notes, *_lower_bound_notes(self.models)
        )


def _totals(models: Sequence[ComparedModel]) -> Table:
    first = models[0]
    columns = (
        Column("model", "Model"),
        Column("parameters", "Params", Unit.QUANTITY),
        Column("macs", "MACs", Unit.MACS),
        Column("relative", "vs first", Unit.RATIO, 1),
        Column("flops", "FLOPs", Unit.FLOPS, 4),
        Column("activations", "Activations", Unit.QUANTITY, 2),
        Column("bytes_moved", "Moved", Unit.BYTES, 5),
        Column("memory", "Memory", Unit.BYTES, 4),
        Column("layers", "Layers", Unit.COUNT, 3),
        Column("top1", "Top-1 %", Unit.NUMBER, 3),
        Column("input", "Input", priority=6),
    )
    rows = tuple(
        Row((
            m.target, m.parameters, m.macs, m.macs / first.macs if first.macs else None, m.flops, m.activations,
            m.bytes_moved, m.memory, m.layers, m.top1, "; ".join(m.inputs),
        ))
        for m in models
    )  # fmt: skip
    return Table(columns, rows, key="models")


def _kinds(models: Sequence[ComparedModel]) -> Table:
    """A row for each kind of operator that has MACs."""
    kinds = sorted(
        {kind for m in models for kind in m.kinds}, key=lambda kind: -max(m.kinds.get(kind, 0) for m in models)
    )
    columns = (
        Column("kind", "MACs by kind"),
        *(Column(f"macs_{i}", m.target, Unit.MACS) for i, m in enumerate(models, 1)),
    )
    return Table(columns, tuple(Row((kind, *(m.kinds.get(kind, 0) for m in models))) for kind in kinds), key="kinds")


def _aligned_table(layers: Sequence[ComparedLayer]) -> Table:
    columns = (
        Column("name", "Module"),
        Column("parameters_a", "Params A", Unit.QUANTITY, 2),
        Column("parameters_b", "Params B", Unit.QUANTITY, 2),
        Column("macs_a", "MACs A", Unit.MACS, 1),
        Column("macs_b", "MACs B", Unit.MACS, 1),
        Column("change", "Change"),
    )
    rows = tuple(
        Row(
            (_short_name(layer), *layer.parameters, *layer.macs, layer.change),
            layer.depth,
            quiet=layer.change == "same",
        )
        for layer in layers
    )
    return Table(columns, rows, tree=True, key="layers")


def _short_name(layer: ComparedLayer) -> Cell:
    return layer.name.rpartition(".")[2] or "model"


def _lower_bound_notes(models: Sequence[ComparedModel]) -> list[Note]:
    return [
        Note(f"{model.target}: {model.uncounted} operators have no formula; its MACs are a lower bound.", Level.WARNING)
        for model in models
        if model.uncounted
    ]


def compared(target: str, trace: Trace, top1: float | None = None) -> ComparedModel:
    """The totals of one recorded forward pass."""
    kinds: Counter[str] = Counter()
    for op in trace.ops:
        if op.macs:
            kinds[op.kind] += op.macs
    return ComparedModel(
        target, input_texts(trace), trace.tree.parameter_count(), trace.macs, trace.flops,
        sum(op.activations for op in trace.ops), sum(op.bytes_read + op.bytes_written for op in trace.ops),
        len(trace.ops), sum(op.kind in WEIGHTED_KINDS for op in trace.ops), len(trace.uncounted), dict(kinds), top1,
        trace.peak_bytes,
    )  # fmt: skip


@dataclass(frozen=True)
class _Module:
    path: str
    depth: int
    cls: str
    parameters: int
    macs: int


def aligned_layers(first: Trace, second: Trace, depth: int) -> tuple[ComparedLayer, ...]:
    """Both trees of modules to `depth`, aligned by path and class in the order of the trees."""
    a, b = _modules_to(first, depth), _modules_to(second, depth)
    keys = [[(module.path, module.cls if module.path else "") for module in side] for side in (a, b)]
    found: list[ComparedLayer] = []
    for what, i, j, m, n in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if what == "equal":
            found += [_both(x, y) for x, y in zip(a[i:j], b[m:n], strict=True)]
            continue
        there = {module.path: module for module in b[m:n]}
        for module in a[i:j]:
            other = there.pop(module.path, None)
            found.append(_both(module, other) if other else _alone(module, 0))
        found += [_alone(module, 1) for module in there.values()]
    return tuple(found)


def _modules_to(trace: Trace, depth: int) -> list[_Module]:
    held = parameters_inside(trace.tree)
    rollup = forward_rollup(trace)
    return [
        _Module(node.path, node.depth, node.cls, held.get(node.path, 0), rollup.inside.get(node.path, rollup.zero).macs)
        for node in trace.tree.modules
        if node.depth <= depth
    ]


def _both(a: _Module, b: _Module) -> ComparedLayer:
    equal = (a.cls, a.parameters, a.macs) == (b.cls, b.parameters, b.macs)
    change = "same" if equal or (not a.path and (a.parameters, a.macs) == (b.parameters, b.macs)) else "changed"
    return ComparedLayer(a.path, a.depth, (a.parameters, b.parameters), (a.macs, b.macs), change)


def _alone(module: _Module, side: int) -> ComparedLayer:
    def placed(value: int) -> tuple[int | None, int | None]:
        return (value, None) if side == 0 else (None, value)

    return ComparedLayer(
        module.path, module.depth, placed(module.parameters), placed(module.macs), f"only in {'AB'[side]}"
    )
