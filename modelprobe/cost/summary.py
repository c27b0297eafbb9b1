"""The report of `modelprobe summary`: layers with shapes, parameters and costs, equal blocks folded into one row."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from modelprobe.cost.folding import folded_mark, folded_paths, name_of_run, stem
from modelprobe.cost.rollup import (
    choose_rows,
    forward_rollup,
    input_texts,
    mode_facts,
    model_name,
    peak_fact,
    state_inside,
)
from modelprobe.cost.tables import hidden_notes, row_mark, row_table
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Level, Note, Report, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact_count, size
from modelprobe.tracing.records import ModuleCall, Shape, Trace, parents

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
    """A module at its place. `inputs` and `outputs` are the shapes of its first call, one of `shapes` kinds of calls.

    `calls` counts those under every name of the module; 0 if it never ran.

    `used` is false for a module that neither ran nor lent its weights to another (`out_proj` of attention does).
    `folded` names further modules that are equal in class, shapes, parameters and MACs; the figures are of the first.
    `run` of them are neighbours, and they come in a pattern of `every` modules where that is not 0.
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
    run: int = 1
    every: int = 0
    shapes: int = 1

    @property
    def name(self) -> str:
        """The last segment of the path; of a folded run, the first and the last."""
        return name_of_run(self)


@dataclass(frozen=True, slots=True)
class Summary(Result):
    """The layers of a model with totals. Bytes of activations are those of every result kept, as training keeps it;
    `peak_bytes` are `Trace.peak_bytes`."""

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
    peak_bytes: int | None
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
        blocks: tuple[Block, ...] = (
            Facts(_summary_facts(self)),
            _summary_table(self),
            *self.notes,
            *_summary_notes(self),
        )
        return self.blocks_report(f"{self.model}: summary", "modelprobe.summary/1", *blocks)


def summary_of(trace: Trace, *, depth: int | None = None, columns: Sequence[str] = (), folded: bool = True) -> Summary:
    """The layer tree of `trace` to `depth` (about forty rows when it is not given) with the named `columns`.

    Raises BadInput for a column that does not exist.
    """
    chosen = known_columns(columns)
    rows = _layers(trace)
    rows = folded_paths(rows, _layer_signature(chosen)) if folded else rows
    visible, shown, hidden = choose_rows(rows, depth, None, tree=True)
    unique = list(trace.tree.unique_state())
    results = _result_bytes(trace)
    return Summary(
        model=model_name(trace),
        inputs=input_texts(trace),
        parameters=trace.tree.parameter_count(),
        trainable=sum(entry.numel for entry in unique if entry.role == "parameter" and entry.requires_grad),
        buffers=sum(entry.numel for entry in unique if entry.role == "buffer"),
        weight_bytes=sum(entry.nbytes for entry in unique),
        macs=trace.macs,
        flops=trace.flops,
        activation_bytes=sum(results.values()),
        largest_result_bytes=max(results.values(), default=0),
        peak_bytes=trace.peak_bytes,
        modules=len({node.identity for node in trace.tree.modules}),
        uncounted=sum(item.count for item in trace.uncounted),
        uncalled=trace.uncalled,
        depth=shown or 0,
        hidden=hidden,
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


def _result_bytes(trace: Trace) -> dict[int, int]:
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
    rollup, state, first = forward_rollup(trace), state_inside(trace.tree), _first_calls(trace)
    counts, shapes = calls_of_modules(trace)
    total, unused = trace.macs, set(trace.uncalled)
    layers: list[Layer] = []
    for node in trace.tree.modules:
        cost, call = rollup.inside.get(node.path, rollup.zero), first.get(node.path)
        entries = state.get(node.path, {}).values()
        layers.append(
            Layer(
                path=node.path,
                cls=node.cls,
                depth=node.depth,
                inputs=call.inputs if call else (),
                outputs=call.outputs if call else (),
                parameters=sum(entry.numel for entry in entries if entry.role == "parameter"),
                nbytes=sum(entry.nbytes for entry in entries),
                macs=cost.macs,
                flops=cost.flops,
                activations=cost.activations,
                share=cost.macs / total if total else 0.0,
                calls=counts.get(node.identity, 0),
                arguments=node.extra,
                same_as=trace.tree.aliases.get(node.path, ""),
                used=unused.isdisjoint(parents(f"{node.path}.")),
                shapes=max(1, shapes.get(node.identity, 1)),
            )
        )
    return layers


def calls_of_modules(trace: Trace) -> tuple[dict[int, int], dict[int, int]]:
    """How often each module was called under whatever name, and with how many shapes, by its identity."""
    identities = {node.path: node.identity for node in trace.tree.modules}
    counts: dict[int, int] = {}
    shapes: dict[int, set[Hashable]] = {}
    for call in trace.calls:
        key = identities.get(call.path, -1)
        counts[key] = counts.get(key, 0) + 1
        shapes.setdefault(key, set()).add((call.inputs, call.outputs))
    return counts, {key: len(found) for key, found in shapes.items()}


def _first_calls(trace: Trace) -> dict[str, ModuleCall]:
    first: dict[str, ModuleCall] = {}
    for call in trace.calls:
        first.setdefault(call.path, call)
    return first


def _layer_signature(columns: Sequence[str]) -> Callable[[Layer], Hashable]:
    """Equal for modules that differ in nothing that is shown but the number at the end of their names."""
    keys = ["cls", "inputs", "outputs", "parameters", "macs", "calls", "used", *(COLUMNS[name].key for name in columns)]

    def signature(layer: Layer) -> Hashable:
        return (stem(layer.path.rpartition(".")[2]), bool(layer.same_as), *(getattr(layer, key) for key in keys))

    return signature


def _summary_facts(summary: Summary) -> tuple[Fact, ...]:
    return (
        Fact("Input", ", ".join(summary.inputs) or "none"),
        *mode_facts(summary.env),
        Fact(
            "Parameters",
            summary.parameters,
            Unit.QUANTITY,
            f"{summary.parameters:,}; {summary.trainable:,} trainable; {summary.buffers:,} in buffers",
        ),
        Fact("MACs", summary.macs, Unit.MACS, exact_count(summary.macs), Tone.KEY),
        Fact("FLOPs", summary.flops, Unit.FLOPS, "2 x MACs and elementwise"),
        Fact("Weights", summary.weight_bytes, Unit.BYTES, "parameters and buffers"),
        Fact(
            "Activations",
            summary.activation_bytes,
            Unit.BYTES,
            f"all results, as kept for training; largest {size(summary.largest_result_bytes)}",
        ),
        *peak_fact(summary.peak_bytes),
        Fact("Modules", summary.modules, Unit.COUNT, f"{len(summary.uncalled)} never ran" if summary.uncalled else ""),
    )


def _summary_table(summary: Summary) -> Table:
    def cell(layer: Layer, key: str) -> Cell:
        value: Cell = getattr(layer, key)
        return value if value != () else None

    def mark(layer: Layer) -> str:
        calls, never = (0, False) if layer.same_as else (layer.calls, not layer.used)
        state = "never ran" if never else ""
        shapes = layer.shapes if calls > 1 else 1
        return row_mark(copies=folded_mark(layer), same_as=layer.same_as, calls=calls, shapes=shapes, state=state)

    return row_table(
        (Column("name", "Layer"), *(COLUMNS[name] for name in summary.columns)),
        summary.layers,
        tree=True,
        mark=mark,
        quiet=lambda layer: not layer.used,
        cell=cell,
        root=summary.model,
        key="layers",
    )


def _summary_notes(summary: Summary) -> list[Note]:
    notes = []
    if any(layer.folded for layer in summary.layers):
        text = "Rows marked xN are N blocks with equal classes, shapes and costs; figures are per block."
        notes.append(Note(text, Level.INFO))
    if summary.uncounted:
        notes.append(Note(f"{summary.uncounted} operator calls are not counted; `flops` lists them.", Level.WARNING))
    return [*notes, *hidden_notes(summary.hidden, summary.depth, tree=True)]
