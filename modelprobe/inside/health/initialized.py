"""`params --init`: how each layer is initialized: fan-in, fan-out, and the initializer that its values fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.console import stdout_kept
from modelprobe.inside.health.file_values import TensorValues, read_values
from modelprobe.inside.health.initializers import LEAST, fans, fitting_initializer
from modelprobe.model.build import LoadedModel
from modelprobe.report.blocks import Column, Fact, Facts, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.module_tree import class_name, walk

TOO_FEW = "too few values to tell"


@dataclass(frozen=True, slots=True)
class InitializedParameter:
    """One parameter: fans (None for a vector), moments, and what its values look like; empty where nothing fits."""

    name: str
    cls: str
    shape: tuple[int, ...]
    fan_in: int | None
    fan_out: int | None
    mean: float | None
    std: float | None
    fits: str
    p_value: float | None


@dataclass(frozen=True, slots=True)
class InitializationResult(Result):
    """Every parameter with the initializer that its values fit."""

    model: str
    parameters: tuple[InitializedParameter, ...]
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """How many fit something, then each."""
        told = [one for one in self.parameters if one.fits != TOO_FEW]
        few = len(self.parameters) - len(told)
        fitting = f"{sum(bool(one.fits) for one in told)} of {len(told)} parameters"
        detail = f"{few} more have too few values to tell" if few else ""
        columns = (
            Column("name", "Parameter"),
            Column("cls", "Class", priority=2),
            Column("shape", "Shape", Unit.SHAPE, priority=3),
            Column("fan_in", "Fan-in", Unit.COUNT, priority=1),
            Column("fan_out", "Fan-out", Unit.COUNT, priority=1),
            Column("std", "Deviation", priority=1),
            Column("fits", "Fits"),
            Column("p_value", "p", priority=2),
        )
        rows = tuple(
            Row((
                one.name, one.cls, one.shape, one.fan_in, one.fan_out, None if one.std is None else f"{one.std:.4g}",
                one.fits or None, None if one.p_value is None else f"{one.p_value:.2g}",
            ))
            for one in self.parameters
        )  # fmt: skip
        facts = Facts((Fact("Fit an initializer", fitting, detail=detail),))
        table = Table(columns, rows, title="Parameters", key="parameters")
        return self.blocks_report(
            f"{self.model}: initialization", "modelprobe.initialization/1", facts, table, *self.notes
        )


@stdout_kept()
def initialization_of(loaded: LoadedModel) -> InitializationResult:
    """The parameters of a model with values, each once."""
    seen: set[int] = set()
    rows = []
    for path, module in walk(loaded.model):
        own = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
        weight = own.get("weight")
        for name, tensor in own.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                rows.append(_initialized_parameter(f"{path}.{name}" if path else name, module, tensor, weight))
    return InitializationResult(loaded.target.name, tuple(rows), loaded.notes, loaded.env)


def _initialized_parameter(
    name: str, module: nn.Module, tensor: nn.Parameter, weight: Tensor | None
) -> InitializedParameter:
    shape = tuple(tensor.shape)
    values = read_values([(_as_numpy(tensor), 1)], shape, str(tensor.dtype).removeprefix("torch."), packed=True)
    ins, outs = fans(shape) if len(shape) > 1 else (None, None)
    beside = fans(tuple(weight.shape))[0] if len(shape) == 1 and weight is not None and weight.dim() > 1 else 0
    said, p = _constant(values), None
    if not said:
        fit = fitting_initializer(values, shape, beside, _recurrent_width(module))
        said, p = (fit.name, fit.p_value) if fit is not None else ("", None)
        if fit is None and values.count < LEAST:
            said = TOO_FEW
    return InitializedParameter(name, class_name(module), shape, ins, outs, values.mean, values.std, said, p)


def _recurrent_width(module: nn.Module) -> int:
    width = getattr(module, "hidden_size", 0) if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) else 0
    return int(width)


def _as_numpy(tensor: Tensor) -> Any:
    wide = tensor.detach().cpu()
    return (wide.float() if wide.dtype in (torch.bfloat16, torch.float16) else wide).reshape(-1).numpy()


def _constant(values: TensorValues) -> str:
    if values.count and values.low == values.high and not values.nan and not values.inf:
        return "zeros" if values.low == 0 else "ones" if values.low == 1 else f"constant {values.low:g}"
    return ""
