"""What is this model made of? Its layers with shapes, parameters and costs, equal blocks folded into one."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from modelprobe.cost.folding import Branch, flatten, fold, grow
from modelprobe.cost.rollup import Tally, by_module, fitting_depth, parameters_inside
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Cell, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact, size
from modelprobe.tracing.records import ModuleCall, ModuleTree, Shape, Trace, parents

COLUMNS = {
    "class": Column("cls", "Class", priority=2),
    "input": Column("inputs", "Input", Unit.SHAPE, priority=4),
    "output": Column("outputs", "Output", Unit.SHAPE, priority=1),
    "params": Column("parameters", "Params", Unit.COUNT),
    "macs": Column("macs", "MACs", Unit.MACS),
    "share": Column("share", "Share", Unit.SHARE, priority=3, bar=True),
    "calls": Column("calls", "Calls", Unit.COUNT, priority=6),
    "flops": Column("flops", "FLOPs", Unit.FLOPS, priority=7),
    "activations": Column("activations", "Activations", Unit.QUANTITY, priority=8),
    "bytes": Column("nbytes", "Weights", Unit.BYTES, priority=9),
    "arguments": Column("arguments", "Arguments", priority=10),
}
"""What `--columns` may name."""

DEFAULT_COLUMNS = ("class", "input", "output", "params", "macs", "share")


@dataclass(frozen=True, slots=True)
class Layer:
    """A module at its place. `inputs` and `outputs` are the shapes of its first call; `calls` is 0 if it never ran.

    `used` is false for a module that neither ran nor lent its weights to another (`out_proj` of attention does).
    `folded` names further modules that are equal in class, shapes, parameters and MACs; the figures are of the first.
    `same_as` names the first place of a module that stands at several.
    """

    path: str
    cls: str
    depth: int
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    parameters: int
    nbytes: int
    macs: int
    flops: int
    activations: int
    share: float
    calls: int
    arguments: str
    same_as: str
    used: bool = True
    folded: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last segment of the path; of a folded run, the first and the last."""
        first = self.path.rpartition(".")[2]
        if not self.folded:
            return first
        last = self.folded[-1].rpartition(".")[2]
        return f"{first}-{last.removeprefix(_stem(first))}"


@dataclass(frozen=True, slots=True)
class Summary(Result):
    """The layers of a model with totals. Bytes of activations are those of every result kept, as training keeps it."""

    model: str
    inputs: tuple[str, ...]
    parameters: int
    trainable: int
    buffers: int
    weight_bytes: int
    macs: int
    flops: int
    activation_bytes: int
    largest_result_bytes: int
    modules: int
    uncounted: int
    uncalled: tuple[str, ...]
    depth: int
    hidden: int
    columns: tuple[str, ...]
    layers: tuple[Layer, ...]
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Totals, the layer tree, notes."""
        notes = [*self.notes, *_own_notes(self)]
        return Report(
            f"{self.model}: summary",
            "modelprobe.summary/1",
            (Facts(_facts(self)), _table(self), *notes),
            self.to_dict(),
            self.env,
        )


def summarize(trace: Trace, *, depth: int | None = None, columns: Sequence[str] = (), folded: bool = True) -> Summary:
    """The layer tree of `trace` to `depth` (about forty rows when it is not given) with the named `columns`.

    Raises BadInput for a column that does not exist.
    """
    chosen = known_columns(columns)
    layers = _layers(trace)
    branches = grow(layers, lambda layer: layer.depth)
    if folded:
        branches = fold(branches, _signature(chosen))
    rows = [_with_copies(branch, level) for branch, level in flatten(branches)]
    shown = fitting_depth(layer.depth for layer in rows) if depth is None else depth
    visible = tuple(layer for layer in rows if layer.depth <= shown)
    unique = list(trace.tree.unique_state())
    results = _results(trace)
    return Summary(
        model=str(trace.env.get("model", trace.tree.cls)),
        inputs=tuple(trace.env.get("inputs", ()))
        or tuple(f"{'x'.join(map(str, ref.shape)) or 'scalar'} {ref.dtype}" for ref in trace.inputs),
        parameters=trace.tree.parameter_count(),
        trainable=sum(entry.numel for entry in unique if entry.role == "parameter" and entry.requires_grad),
        buffers=sum(entry.numel for entry in unique if entry.role == "buffer"),
        weight_bytes=sum(entry.nbytes for entry in unique),
        macs=trace.macs,
        flops=trace.flops,
        activation_bytes=sum(results.values()),
        largest_result_bytes=max(results.values(), default=0),
        modules=len({node.identity for node in trace.tree.modules}),
        uncounted=sum(item.count for item in trace.uncounted),
        uncalled=trace.uncalled,
        depth=shown,
        hidden=len(rows) - len(visible),
        columns=chosen,
        layers=visible,
        notes=trace.notes,
        env=trace.env,
    )


def known_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Column names from texts that may each hold several; the default ones for none. Raises BadInput."""
    asked = [part.strip().lower() for text in columns for part in text.split(",") if part.strip()]
    wanted = tuple(dict.fromkeys(asked))
    if columns and not wanted:
        raise BadInput("no column is named", f"columns: {', '.join(COLUMNS)}")
    for name in wanted:
        if name not in COLUMNS:
            close = get_close_matches(name, COLUMNS, n=3, cutoff=0.4)
            raise BadInput(f"summary has no column {name!r}", f"columns: {', '.join(close or COLUMNS)}")
    return wanted or DEFAULT_COLUMNS


def _results(trace: Trace) -> dict[int, int]:
    """Storage -> bytes of everything that the forward made: views and in-place results count with their storage."""
    given = {ref.storage for op in trace.ops for ref in op.inputs if ref.value in trace.named}
    given.update(ref.storage for ref in trace.inputs)
    made: dict[int, int] = {}
    for op in trace.ops:
        for ref in op.outputs:
            if ref.storage not in given:
                made[ref.storage] = max(ref.nbytes, made.get(ref.storage, 0))
    return made


def _layers(trace: Trace) -> list[Layer]:
    inside, parameters = by_module(trace), parameters_inside(trace.tree)
    nbytes, first = _bytes_inside(trace.tree), _first_calls(trace)
    total, unused = trace.macs, set(trace.uncalled)
    layers: list[Layer] = []
    for node in trace.tree.modules:
        cost = inside.get(node.path, Tally())
        call = first.get(node.path)
        layers.append(
            Layer(
                path=node.path,
                cls=node.cls,
                depth=node.depth,
                inputs=call.inputs if call else (),
                outputs=call.outputs if call else (),
                parameters=parameters.get(node.path, 0),
                nbytes=nbytes.get(node.path, 0),
                macs=cost.macs,
                flops=cost.flops,
                activations=cost.activations,
                share=cost.macs / total if total else 0.0,
                calls=trace.call_counts.get(node.path, 0),
                arguments=node.extra,
                same_as=trace.tree.aliases.get(node.path, ""),
                used=unused.isdisjoint(parents(f"{node.path}.")),
            )
        )
    return layers


def _first_calls(trace: Trace) -> dict[str, ModuleCall]:
    first: dict[str, ModuleCall] = {}
    for call in trace.calls:
        first.setdefault(call.path, call)
    return first


def _bytes_inside(tree: ModuleTree) -> dict[str, int]:
    """Path -> bytes of the parameters and buffers registered in the module and below, each tensor once."""
    seen: set[tuple[str, int]] = set()
    totals: dict[str, int] = {}
    for entry in tree.state:
        for place in parents(entry.path):
            if (place, entry.identity) not in seen:
                seen.add((place, entry.identity))
                totals[place] = totals.get(place, 0) + entry.nbytes
    return totals


def _signature(columns: Sequence[str]) -> Callable[[Layer], Hashable]:
    """Equal for modules that differ in nothing that is shown but the number at the end of their names."""
    keys = ["cls", "inputs", "outputs", "parameters", "macs", "calls", "used", *(COLUMNS[name].key for name in columns)]

    def signature(layer: Layer) -> Hashable:
        return (_stem(layer.path.rpartition(".")[2]), bool(layer.same_as), *(getattr(layer, key) for key in keys))

    return signature


def _stem(name: str) -> str:
    """`encoder_layer_` of `encoder_layer_11`."""
    return re.sub(r"\d+$", "", name)


def _with_copies(branch: Branch[Layer], depth: int) -> Layer:
    return replace(branch.item, depth=depth, folded=tuple(layer.path for layer in branch.copies))


def _facts(summary: Summary) -> tuple[Fact, ...]:
    return (
        Fact("Input", ", ".join(summary.inputs) or "none"),
        Fact(
            "Parameters",
            summary.parameters,
            Unit.QUANTITY,
            f"{summary.parameters:,}; {summary.trainable:,} trainable; {summary.buffers:,} in buffers",
        ),
        Fact("MACs", summary.macs, Unit.MACS, exact(summary.macs)),
        Fact("FLOPs", summary.flops, Unit.FLOPS, "2 x MACs and elementwise"),
        Fact("Weights", summary.weight_bytes, Unit.BYTES, "parameters and buffers"),
        Fact(
            "Activations",
            summary.activation_bytes,
            Unit.BYTES,
            f"every result kept, as for training; the largest is {size(summary.largest_result_bytes)}",
        ),
        Fact("Modules", summary.modules, Unit.COUNT, f"{len(summary.uncalled)} never ran" if summary.uncalled else ""),
    )


def _table(summary: Summary) -> Table:
    columns = (Column("name", "Layer"), *(COLUMNS[name] for name in summary.columns))
    rows = tuple(
        Row(
            (layer.name or summary.model, *(_cell(layer, column.key) for column in columns[1:])),
            depth=layer.depth,
            mark=_mark(layer),
            quiet=not layer.used,
        )
        for layer in summary.layers
    )
    return Table(columns, rows, tree=True, key="layers")


def _cell(layer: Layer, key: str) -> Cell:
    if key == "cls" and not layer.depth:
        return layer.cls
    value: Cell = getattr(layer, key)
    return value if value != () else None


def _mark(layer: Layer) -> str:
    marks = []
    if layer.folded:
        marks.append(f"x{len(layer.folded) + 1}")
    if layer.same_as:
        marks.append(f"is {layer.same_as}")
    elif layer.calls > 1:
        marks.append(f"called x{layer.calls}")
    if not layer.used and not layer.same_as:
        marks.append("never ran")
    return ", ".join(marks)


def _own_notes(summary: Summary) -> list[Note]:
    notes = []
    if any(layer.folded for layer in summary.layers):
        text = "A row marked xN stands for N blocks with equal classes, shapes and costs; its figures are those of one."
        notes.append(Note(text, Level.INFO))
    if summary.uncounted:
        notes.append(Note(f"{summary.uncounted} operator calls are not counted: `flops` names them.", Level.WARNING))
    if summary.hidden:
        notes.append(Note(f"Shown to depth {summary.depth}; {summary.hidden} rows lie deeper (--depth).", Level.INFO))
    return notes
