"""`health` of a model on one batch: the result, and the Python function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from modelprobe.environment import brief
from modelprobe.errors import BadInput
from modelprobe.inside.health.activations import LayerActivity
from modelprobe.inside.health.batch_checks import batch_findings, step_of
from modelprobe.inside.health.batch_run import run_batch
from modelprobe.inside.health.file_health import FileHealthResult, check_file_health
from modelprobe.inside.health.findings import HealthFinding, findings_table, ranked
from modelprobe.report.blocks import Block, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer in the order in which it ran: its output's moments, and the gradient that reached it (RMS each)."""

    path: str
    cls: str
    shape: tuple[int, ...]
    mean: float
    std: float
    zeros: float
    saturated: float | None
    dead: int
    units: int
    gradient: float | None


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One parameter: norms of gradient and weight, the gradient's share of zeros, the step's size over the weight's.

    `reason` says why no gradient came: frozen, unused, no_grad, detached, stopped.
    """

    name: str
    shape: tuple[int, ...]
    norm: float | None
    weight: float
    ratio: float | None
    zeros: float | None
    step: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class BatchHealthResult(Result):
    """What one step shows to be wrong, the gravest first; nothing is said of what is well."""

    model: str
    loss: float
    loss_name: str
    findings: tuple[HealthFinding, ...]
    layers: tuple[LayerRow, ...]
    parameters: tuple[ParameterRow, ...]
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    plot: str | None = None
    show_layers: bool = field(repr=False, default=False)

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def gains(self) -> dict[int, float]:
        """fan-in times the variance of its weight, by the place of the layer in `layers`.

        He et al. (2015) make it 2, which keeps the variance of outputs behind a ReLU; Glorot and Bengio (2010) about 1.
        """
        weights = {one.name: one for one in self.parameters if len(one.shape) > 1}
        found = {}
        for place, layer in enumerate(self.layers):
            weight = weights.get(f"{layer.path}.weight" if layer.path else "weight")
            if weight is not None and math.isfinite(weight.weight):
                found[place] = weight.weight**2 / weight.shape[0]
        return found

    def report(self) -> Report:
        """The findings; on request layers and parameters."""
        got = [one for one in self.parameters if one.norm is not None]
        count = len(self.findings)
        facts = (
            Fact(
                "Verdict",
                "nothing found" if self.healthy else f"{count} finding{'s' if count > 1 else ''}",
                tone=Tone.of(self.healthy),
            ),
            Fact("Loss", f"{self.loss:.5g}", detail=self.loss_name),
            Fact("Gradients", f"{len(got)} of {len(self.parameters)} parameters"),
        )
        blocks: list[Block] = [Facts(facts)]
        if self.findings:
            blocks.append(findings_table(self.findings))
        if self.show_layers:
            blocks += [_activity_table(self.layers), _gradient_table(self.parameters)]
        if self.plot:
            blocks.append(Figure(Path(self.plot), f"{self.model}: outputs and gradients through depth"))
        return self.blocks_report(f"{self.model}: health", "modelprobe.health/1", *blocks, *self.notes)


def check_health(
    model: nn.Module | str | Path,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[..., Any] | None = None,
    lr: float | None = None,
    optimizer: str = "sgd",
    seed: int = 0,
) -> BatchHealthResult | FileHealthResult:
    """What is wrong with a model on one batch, or with a weight file (its path, and nothing else).

    `loss(output)` gives a scalar; without one the model's own loss is taken, cross-entropy against made-up classes, or
    a mean square. The model runs in training mode and is left as it was. With `lr` the size of the first step of
    `optimizer` (sgd, adam, adamw) is judged too.
    Raises BadInput for a loss that is no scalar or when nothing would train, ModelRaised when the model raises.
    """
    if isinstance(model, (str, Path)):
        if inputs or kwargs or loss is not None:
            raise BadInput("a weight file has no inputs and no loss", "give the path alone")
        return replace(check_file_health(str(model)), env=brief())
    if not isinstance(model, nn.Module):
        raise BadInput(f"{type(model).__name__} is no torch.nn.Module and no path", "give a model and its inputs")
    return batch_health(
        model, inputs, kwargs or {}, loss=loss, rate=lr, optimizer=optimizer, seed=seed, name=type(model).__name__,
        env=brief(),
    )  # fmt: skip


def batch_health(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    name: str,
    loss: Callable[..., Any] | None = None,
    rate: float | None = None,
    optimizer: str = "sgd",
    seed: int = 0,
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
    show_layers: bool = False,
) -> BatchHealthResult:
    """One step, and what it shows."""
    run = run_batch(model, args, kwargs, loss, seed)
    said = list(notes)
    if loss is None and ("made-up" in run.loss_name or "square" in run.loss_name):
        said.append(Note(f"The loss is assumed: {run.loss_name}. --loss names yours.", Level.ASSUMED))
    return BatchHealthResult(
        model=name,
        loss=run.loss,
        loss_name=run.loss_name,
        findings=ranked(batch_findings(run, rate, optimizer)),
        layers=tuple(map(_layer_row, run.layers)),
        parameters=tuple(
            ParameterRow(
                one.name, one.shape, one.norm, one.weight,
                one.norm / one.weight if one.norm is not None and one.weight else None, one.zeros,
                step_of(one, rate, optimizer) if rate is not None else None, one.reason,
            )
            for one in run.parameters
        ),
        notes=tuple(said),
        env=env or {},
        show_layers=show_layers,
    )  # fmt: skip


def _layer_row(layer: LayerActivity) -> LayerRow:
    return LayerRow(
        layer.path, layer.cls, layer.shape, layer.mean, layer.std, layer.zeros, layer.saturated, layer.dead,
        layer.units, layer.gradient,
    )  # fmt: skip


def _activity_table(layers: Sequence[LayerRow]) -> Table:
    columns = (
        Column("path", "Layer"),
        Column("cls", "Class", priority=2),
        Column("shape", "Output", Unit.SHAPE, priority=3),
        Column("mean", "Mean", priority=1),
        Column("std", "Deviation"),
        Column("zeros", "Zeros", Unit.SHARE, priority=2),
        Column("saturated", "Saturated", Unit.SHARE, priority=3),
        Column("gradient", "Gradient"),
    )
    rows = tuple(
        Row(
            (
                one.path or "(model)", one.cls, one.shape, f"{one.mean:.3g}", f"{one.std:.3g}", one.zeros or None,
                one.saturated, None if one.gradient is None else f"{one.gradient:.2e}",
            ),
            mark=f"{one.dead} dead" if one.dead else "",
        )
        for one in layers
    )  # fmt: skip
    return Table(columns, rows, title="Layers: outputs, and the RMS of their gradients", key="layers")


def _gradient_table(parameters: Sequence[ParameterRow]) -> Table:
    columns = (
        Column("name", "Parameter"),
        Column("shape", "Shape", Unit.SHAPE, priority=2),
        Column("norm", "Gradient norm"),
        Column("ratio", "/ weight", priority=1),
        Column("zeros", "Zeros", Unit.SHARE, priority=2),
        Column("step", "Step / weight", priority=1),
    )
    rows = tuple(
        Row(
            (
                one.name, one.shape, *(None if v is None else f"{v:.2e}" for v in (one.norm, one.ratio)), one.zeros,
                None if one.step is None else f"{one.step:.2e}",
            ),
            mark=one.reason,
        )
        for one in parameters
    )  # fmt: skip
    return Table(columns, rows, title="Parameters", key="parameters")
