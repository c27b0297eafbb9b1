"""`health` of a weight file alone: what its values and its optimizer's state say about the training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy

from modelprobe.checkpoint.answers.decode import ValueReader
from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import DISTRIBUTED, Branch, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.gather import ZERO
from modelprobe.console import progress
from modelprobe.errors import BadInput, ProbeError, one_line
from modelprobe.inside.health.file_checks import FILE_CHECKS, LayerValues, layers_with_values
from modelprobe.inside.health.file_values import TensorValues, read_values
from modelprobe.inside.health.findings import HealthFinding, findings_table, listed_names, ranked
from modelprobe.inside.health.initializers import fans
from modelprobe.inside.health.optimizer_checks import StateValues, check_gradients, check_rate, check_steps, check_units
from modelprobe.inside.health.optimizer_state import OptimizerState, name_states, optimizers_of
from modelprobe.inside.health.spectrum import MOST_VALUES, Spectrum, spectrum_of
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

LAG = 0.5
"""Distance of averaged weights over their norm, from which on they say little of the model."""

FLOOR_ROOM = 0.06

SPECTRUM_COLUMNS = (
    Column("stable_rank", "Stable rank"),
    Column("exponent", "Tail exponent", priority=1),
    Column("tail_p", "p of the tail", priority=2),
)


@dataclass(frozen=True, slots=True)
class LayerHealth:
    """The weight of one layer: its size in units of 1 / sqrt(fan-in), and the initializer that its values fit."""

    path: str
    shape: tuple[int, ...]
    size: float | None
    initializer: str
    p_value: float | None
    untrained: bool | None
    spectrum: Spectrum | None = None


@dataclass(frozen=True, slots=True)
class FileHealthResult(Result):
    """What is wrong with the weights of a file, the gravest first; nothing is said of what is well.

    `unread` are tensors whose values cannot be read, and why.
    """

    path: str
    branch: str
    tensors: int
    values: int
    optimizer: str
    findings: tuple[HealthFinding, ...]
    layers: tuple[LayerHealth, ...]
    unread: tuple[tuple[str, str], ...] = ()
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    show_layers: bool = field(repr=False, default=False)

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def report(self) -> Report:
        """The findings; on request every layer."""
        facts = (
            Fact(
                "Verdict",
                "nothing found"
                if self.healthy
                else f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}",
            ),
            Fact(
                "Weights", self.branch or "the whole file", detail=f"{self.tensors:,} tensors, {self.values:,} values"
            ),
            Fact("Optimizer", self.optimizer or "none in the file"),
        )
        blocks: list[Block] = [Facts(facts)]
        if self.findings:
            blocks.append(findings_table(self.findings))
        if self.layers and (self.show_layers or any(layer.spectrum is not None for layer in self.layers)):
            blocks.append(_layer_health_table(self.layers))
        return self.blocks_report(f"{self.path}: health", "modelprobe.file-health/1", *blocks, *self.notes)


def check_file_health(
    path: str, branch: str | None = None, show_layers: bool = False, spectra: bool = False
) -> FileHealthResult:
    """Read every value of a weight file once, and say what is wrong. Memory stays bounded.

    With `spectra` each weight is read once more, whole, for its stable rank and the tail of its spectrum.
    Raises BadInput for a file without tensors, and for one that is not on this machine.
    """
    found = open_checkpoint(path)
    if "://" in found.path:
        raise BadInput(f"{found.path} is not on this machine", "health reads every value: download it first")
    chosen = chosen_branch(found, branch)
    with ExitStack() as stack, numpy.errstate(all="ignore"):
        tick = stack.enter_context(progress(f"reading {path}", len(found.tensors)))
        reading = _Reading(found, stack, tick)
        values = reading.of_branch(chosen)
        if not values and reading.unread:
            _refuse_unread(found, reading.unread)
        layers = layers_with_values(values)
        findings = [item for check in FILE_CHECKS for item in check(layers)]
        optimizers = optimizers_of(found)
        for optimizer in optimizers:
            findings += _of_optimizer(reading, optimizer, chosen, layers)
        findings += _of_averages(reading, chosen, values, layers)
        weights = [layer for layer in layers if layer.weight is not None]
        found_spectra = reading.spectra(chosen, weights) if spectra else {}
    findings += _of_loss(found, layers)
    return FileHealthResult(
        path=path,
        branch=chosen.name,
        tensors=len(values),
        values=sum(item.count for item in values.values()),
        optimizer=_told_optimizer(optimizers),
        findings=ranked(_without_consequences(findings)),
        layers=tuple(_layer_health(layer, found_spectra.get(layer.path)) for layer in weights),
        unread=tuple(reading.unread.items()),
        notes=_file_notes(reading, optimizers),
        show_layers=show_layers,
    )


def _refuse_unread(found: Checkpoint, unread: Mapping[str, str]) -> NoReturn:
    """Raise BadInput for a file none of whose values can be read."""
    spread = found.format in (DISTRIBUTED, ZERO)
    hint = "`modelprobe convert` makes one file of it; look at that" if spread else "`modelprobe summary` lists them"
    raise BadInput(
        f"no value of the {len(unread):,} tensors in {found.path} can be read: {next(iter(unread.values()))}", hint
    )


class _Reading:
    """Reads tensors of a checkpoint, each once."""

    def __init__(self, found: Checkpoint, stack: ExitStack, tick: Any) -> None:
        self.found, self._stack, self._tick = found, stack, tick
        self.unread: dict[str, str] = {}
        self._readers: dict[str, ValueReader] = {}
        self._known: dict[tuple[object, ...], TensorValues] = {}

    def of_branch(self, branch: Branch) -> dict[str, TensorValues]:
        """The values of a branch's tensors, by their names in it."""
        read = {}
        for entry in self.found.tensors_in(branch):
            name = ".".join(entry.path[len(branch.path) :])
            values = self.one(name, entry, branch.name)
            if values is not None:
                read[name] = values
        return read

    def spectra(self, branch: Branch, layers: Sequence[LayerValues]) -> dict[str, Spectrum]:
        """The spectra of the layers' weights, by path."""
        wanted = {f"{layer.path}.weight" if layer.path else "weight": layer.path for layer in layers}
        read: dict[str, Spectrum] = {}
        for entry in self.found.tensors_in(branch):
            name = ".".join(entry.path[len(branch.path) :])
            if name not in wanted or math.prod(entry.shape) > MOST_VALUES or not _in_index_order(entry):
                continue
            with contextlib.suppress(ProbeError, ValueError, TypeError, OverflowError):
                pieces = [numpy.tile(part, times) for part, times in self._readers[branch.name].pieces(name, entry)]
                spectrum = spectrum_of(numpy.concatenate(pieces).reshape(entry.shape))
                if spectrum is not None:
                    read[wanted[name]] = spectrum
        return read

    def one(self, name: str, entry: TensorEntry | None, branch: str = "") -> TensorValues | None:
        """The values of one tensor; None, and a reason kept, where they cannot be read."""
        if entry is None:
            return None
        key = entry.identity
        if key not in self._known:
            self._tick()
            if branch not in self._readers:
                self._readers[branch] = ValueReader(self.found, branch, self._stack)
            try:
                pieces = self._readers[branch].pieces(name, entry)
                self._known[key] = read_values(pieces, entry.shape, entry.dtype, _in_index_order(entry))
            except ProbeError as error:
                self.unread[entry.name] = error.message
                return None
            except (ValueError, TypeError, OverflowError, RuntimeError) as error:
                self.unread[entry.name] = one_line(error)
                return None
        return self._known[key]


def _in_index_order(entry: TensorEntry) -> bool:
    """Whether the order of memory is that of the indices."""
    wanted = 1
    for length, stride in reversed(list(zip(entry.shape, entry.strides or (), strict=False))):
        if length > 1 and stride != wanted:
            return False
        wanted *= length
    return entry.strides is None or len(entry.strides) == len(entry.shape)


def _of_optimizer(
    reading: _Reading, optimizer: OptimizerState, chosen: Branch, layers: Sequence[LayerValues]
) -> list[HealthFinding]:
    parameters = [
        (".".join(entry.path[len(chosen.path) :]), entry)
        for entry in reading.found.tensors_in(chosen)
        if entry.role != "buffer" and "by-name" not in entry.flags and entry.path[-1] not in BUFFERS
    ]
    name_states(optimizer, [pair for pair in parameters if "optimizer" not in pair[0]])
    states = [
        StateValues(state, reading.one("", state.first), reading.one("", state.second)) for state in optimizer.states
    ]
    by_path = {layer.path: layer for layer in layers}
    bad = [s.label for s in states if any(v is not None and (v.nan or v.inf) for v in (s.first, s.second))]
    found = [*check_rate(optimizer, layers), *check_gradients(states, optimizer)]
    found += [*check_units(states, by_path), *check_steps(states, by_path)]
    if bad:
        text = f"The optimizer's state of {listed_names(bad)} is not finite."
        found.append(HealthFinding("not finite", tuple(bad), text))
    return found


def _of_averages(
    reading: _Reading, chosen: Branch, values: Mapping[str, TensorValues], layers: Sequence[LayerValues]
) -> list[HealthFinding]:
    """Averaged weights beside those of the model: never updated, or far behind."""
    found: list[HealthFinding] = []
    for branch in reading.found.branches:
        if branch.rule != "averaged weights" or branch.path == chosen.path:
            continue
        entries = {
            ".".join(e.path[len(branch.path) :]).removeprefix("module."): e for e in reading.found.tensors_in(branch)
        }
        shared = [name for name in values if name in entries and entries[name].shape == values[name].shape]
        own = {name: reading.one(name, entries[name], branch.name) for name in shared}
        averaged = layers_with_values({name: item for name, item in own.items() if item is not None})
        trained = {layer.path for layer in layers if layer.untrained is False and layer.weight is not None}
        still = [layer.label for layer in averaged if layer.untrained and layer.path in trained]
        told = [layer for layer in averaged if layer.weight is not None and layer.untrained is not None]
        if still and len(still) >= len(told) / 2:
            text = f"The averaged weights in {branch.name} were never updated: they are as initializers left them."
            found.append(HealthFinding("average never updated", (branch.name,), text, f"{len(still)} layers"))
            continue
        lag = _lag(values, own)
        if lag is not None and lag > LAG:
            text = f"The averaged weights in {branch.name} lag far behind the model's."
            found.append(HealthFinding("average lags", (branch.name,), text, f"norms differ by {lag:.0%}"))
    return found


def _lag(model: Mapping[str, TensorValues], average: Mapping[str, TensorValues | None]) -> float | None:
    """How far samples of both are apart, over the size of the model's."""
    apart = size = 0.0
    for name, values in average.items():
        other = model[name]
        if values is None or len(values.shape) < 2 or values.sample.size != other.sample.size:
            continue
        apart += float(((values.sample.astype("f8") - other.sample) ** 2).sum())
        size += float((other.sample.astype("f8") ** 2).sum())
    return math.sqrt(apart / size) if size and math.isfinite(apart / size) else None


def _of_loss(found: Checkpoint, layers: Sequence[LayerValues]) -> list[HealthFinding]:
    """A loss that stands at the least that cross-entropy of a softmax can have: softmax was applied twice."""
    loss = next((i.value for i in found.tree.children if i.key.lower() in ("loss", "train_loss", "val_loss")), None)
    heads = [layer.weight.shape[0] for layer in layers if layer.weight is not None]
    if not isinstance(loss, float) or not heads or heads[-1] < 3:
        return []
    floor = math.log(1 + (heads[-1] - 1) / math.e)
    if not floor * (1 - 1e-3) <= loss <= floor * (1 + FLOOR_ROOM):
        return []
    text = (
        f"The loss has stopped at what cross-entropy of a softmax of {heads[-1]} classes has at least: softmax is "
        "likely applied twice."
    )
    return [HealthFinding("double softmax", (), text, f"loss {loss:.4g}, least possible {floor:.4g}")]


def _without_consequences(findings: Sequence[HealthFinding]) -> list[HealthFinding]:
    """Without what follows from a graver finding about the same."""
    kinds = {found.kind for found in findings}
    silent = {name.rpartition(".")[0] for found in findings if found.kind == "no gradient" for name in found.where}
    kept = []
    for found in findings:
        if found.kind == "never trained" and "learning rate zero" in kinds:
            continue
        if found.kind == "never trained" and set(found.where) <= silent:
            continue  # the reason is told
        if "diverged" in kinds and found.kind in ("not finite", "average lags"):
            continue
        kept.append(found)
    return kept


def _told_optimizer(optimizers: Sequence[OptimizerState]) -> str:
    counts = sum(len(one.states) for one in optimizers)
    return f"state of {counts} parameters" if counts else ("without state" if optimizers else "")


def _file_notes(reading: _Reading, optimizers: Sequence[OptimizerState]) -> tuple[Note, ...]:
    notes = []
    if reading.unread:
        name, why = next(iter(reading.unread.items()))
        notes.append(Note(f"{len(reading.unread)} tensors were not read, the first {name}: {why}.", Level.WARNING))
    if any(one.states and not one.named for one in optimizers):
        text = "The optimizer's parameters have no names in the file, and no order of them fits: numbers are given."
        notes.append(Note(text, Level.ASSUMED))
    return tuple(notes)


def _layer_health(layer: LayerValues, spectrum: Spectrum | None) -> LayerHealth:
    weight = layer.weight
    assert weight is not None
    size = weight.rms * math.sqrt(fans(weight.shape)[0]) if weight.rms is not None else None
    fit = layer.fit
    return LayerHealth(
        layer.path, weight.shape, size, fit.name if fit else "", fit.p_value if fit else None, layer.untrained, spectrum
    )


def _layer_health_table(layers: Sequence[LayerHealth]) -> Table:
    shown = any(layer.spectrum is not None for layer in layers)
    columns = (
        Column("path", "Layer"),
        Column("shape", "Weight", Unit.SHAPE, priority=1),
        Column("size", "Size x sqrt(fan-in)"),
        Column("initializer", "Fits initializer", priority=1),
        Column("p_value", "p", priority=2),
        *(SPECTRUM_COLUMNS if shown else ()),
    )
    rows = tuple(
        Row(
            (
                layer.path or "(model)",
                layer.shape,
                None if layer.size is None else f"{layer.size:.3g}",
                layer.initializer or None,
                None if layer.p_value is None else f"{layer.p_value:.2g}",
                *(_spectrum_cells(layer.spectrum) if shown else ()),
            ),
            mark="never trained" if layer.untrained else "",
        )
        for layer in layers
    )
    return Table(columns, rows, title="Layers", key="layers")


def _spectrum_cells(spectrum: Spectrum | None) -> tuple[str | None, str | None, str | None]:
    if spectrum is None:
        return None, None, None
    exponent = None if spectrum.exponent is None else f"{spectrum.exponent:.2f}"
    return f"{spectrum.stable_rank:.3g}", exponent, None if spectrum.p_value is None else f"{spectrum.p_value:.2g}"
