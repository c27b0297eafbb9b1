"""What layers put out in one forward pass, measured by hooks: moments, zeros, saturation, dead units."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.tracing.module_tree import class_name, walk
from modelprobe.tracing.tensors import leaves

RANGE = 1e-12, 1e18
"""Norms within which squares of float32 neither vanish nor overflow."""

MEASURED = 1 << 17
"""Elements of an output that are looked at: of a larger one every so many positions of every unit."""

BOUNDED = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0), nn.Hardsigmoid: (0.0, 1.0), nn.Hardtanh: (-1.0, 1.0)}
"""Class -> the values that it saturates at."""

CUTTING = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Threshold)
"""Classes that put out zeros for half of what they may be given."""

NEAR = 0.02
"""Share of the range within which a value counts as saturated."""


@dataclass(slots=True)
class LayerActivity:
    """One layer's output and, after the backward pass, the gradient that reached it.

    `dead` of `units` (channels of images, features of vectors) are zero for the whole batch. `saturated` is the share
    at the ends of the range, None for a layer without ends. `recorded`: autograd recorded the layer. `gradient` is the
    root mean square of the gradient of the loss with respect to the output, None where none arrived.
    """

    path: str
    cls: str
    shape: tuple[int, ...]
    mean: float
    std: float
    zeros: float
    finite: bool
    saturated: float | None = None
    dead: int = 0
    units: int = 0
    recorded: bool = True
    gradient: float | None = None


class ActivityHooks:
    """Hooks on every layer without children. `layers` are in the order in which they ran first, `ran` their paths."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.layers: dict[str, LayerActivity] = {}
        self.ran: set[str] = set()
        self.lists = {path for path, m in walk(model) if isinstance(m, (nn.ParameterList, nn.ParameterDict))}
        self.ungraded: set[str] = set()  # modules that ran where autograd does not record

    def enter(self, stack: ExitStack) -> None:
        """Put the hooks on, until `stack` is closed."""
        first: dict[int, str] = {}
        for path, module in walk(self._model):
            if id(module) in first or isinstance(module, torch.jit.ScriptModule):
                continue
            first[id(module)] = path
            stack.callback(module.register_forward_hook(self._hook(path, not module._modules)).remove)

    def _hook(self, path: str, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, out: Any) -> None:
            if not torch.is_grad_enabled():
                self.ungraded.add(path)
            self.ran.add(path)
            tensor = next((t for _, t in leaves(out) if t.is_floating_point()), None) if leaf else None
            if tensor is None or not tensor.numel() or path in self.layers:
                return
            with torch.no_grad():
                layer = self.layers[path] = measured(path, module, tensor.detach())
            layer.recorded = tensor.requires_grad
            recorded: Any = tensor
            if recorded.requires_grad:
                recorded.register_hook(lambda gradient: self._gradient(layer, gradient))

        return hook

    def _gradient(self, layer: LayerActivity, gradient: Tensor) -> None:
        layer.gradient = norm_of(gradient.detach()) / math.sqrt(max(1, gradient.numel()))


def measured(path: str, module: nn.Module, out: Tensor) -> LayerActivity:
    """The figures of one output."""
    axis = 1 if out.dim() > 3 or (out.dim() == 3 and isinstance(module, (nn.Conv1d, nn.BatchNorm1d))) else -1
    few = _thinned(out, axis)
    seen = few.movedim(axis, -1).reshape(-1, out.shape[axis]).float() if out.dim() > 1 else out.reshape(-1, 1).float()
    mean = seen.mean()
    std = torch.linalg.vector_norm(seen - mean) / math.sqrt(seen.numel())
    found = LayerActivity(
        path, class_name(module), tuple(out.shape), float(mean), float(std), 0.0, math.isfinite(float(std)),
        units=seen.shape[1],
    )  # fmt: skip
    if isinstance(module, CUTTING):
        zero = seen == 0
        found.zeros = float(zero.float().mean())
        still = zero.all(0)
        found.dead = int(still.sum())
        if found.dead and few is not out:  # what was not looked at may be alive
            inner = out.movedim(axis, 0)[still].flatten(1)
            found.dead = int((inner == 0).all(1).sum())
    ends = BOUNDED.get(type(module))
    if ends is not None:
        room = NEAR * (ends[1] - ends[0])
        found.saturated = float(((seen <= ends[0] + room) | (seen >= ends[1] - room)).float().mean())
    return found


def _thinned(out: Tensor, axis: int) -> Tensor:
    """Every unit, at as many positions of each example as fit into MEASURED; a view."""
    found, own = out, axis % out.dim() if out.dim() else 0
    for dim in sorted(range(out.dim()), key=lambda d: -out.shape[d]):
        over = found.numel() // MEASURED
        if dim != own and over > 1:
            # An odd step, since positions of one parity may be alike (after strides and pooling).
            found = found[(slice(None),) * dim + (slice(None, None, min(found.shape[dim], over | 1)),)]
    return found


def norm_of(tensor: Tensor) -> float:
    """The norm; in float32 for half precision, and in float64 where squares would leave the range of float32."""
    low = tensor.dtype in (torch.float16, torch.bfloat16)
    found = float(torch.linalg.vector_norm(tensor, dtype=torch.float32 if low else None))
    if tensor.is_complex() or RANGE[0] < found < RANGE[1]:
        return found
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
