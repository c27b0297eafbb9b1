"""StepPairs of networks that compute the same in another way: another layout, kernel, order of threads, or function."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Functional(nn.Module):
    """A layer computed by `torch.nn.functional`, or by its formula."""

    def __init__(self, inner: nn.Module, formula: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.formula = inner, formula

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self.inner, x)


def _layer_norm(m: Any, x: Tensor) -> Tensor:
    axes = tuple(range(-len(m.normalized_shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    out = centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + m.eps)
    return out * m.weight + m.bias if m.bias is not None else out * m.weight


def _batch_norm(m: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, m.momentum, m.eps)


FORMULAS: dict[type, list[Callable[[Any, Tensor], Tensor]]] = {
    nn.Linear: [
        lambda m, x: F.linear(x, m.weight, m.bias),
        lambda m, x: x @ m.weight.t() + m.bias if m.bias is not None else x @ m.weight.t(),
    ],
    nn.ReLU: [lambda m, x: F.relu(x), lambda m, x: x.clamp(min=0)],
    nn.GELU: [
lambda m, x: F.gelu(x, approximate=m.approximate), lambda m, x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
              if m.approximate == "none" else F.gelu(x, approximate="tanh")],
    nn.SiLU: [lambda m, x: F.silu(x), lambda m, x: x * torch.sigmoid(x)],
    nn.Hardswish: [lambda m, x: F.hardswish(x), lambda m, x: x * F.relu6(x + 3) / 6],
    nn.LayerNorm: [lambda m, x: F.layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps), _layer_norm],
    nn.BatchNorm2d: [_batch_norm],
    nn.Conv2d: [lambda m, x: m._conv_forward(x.clone(), m.weight, m.bias)],
    nn.AdaptiveAvgPool2d: [lambda m, x: x.mean((-2, -1), keepdim=True) if m.output_size in (1, (1, 1)) else m(x)],
}  # fmt: skip


def functional(model: nn.Module, choice: int) -> nn.Module:
    """Every layer that has a formula computed by it."""
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        if isinstance(parent, (Functional, nn.MultiheadAttention, nn.TransformerEncoderLayer)):
            continue
        for name, child in list(parent.named_children()):
            formulas = FORMULAS.get(type(child))
            if formulas:
                setattr(parent, name, Functional(child, formulas[choice % len(formulas)]))
    return twin.eval()


def plain_attention(model: nn.Module) -> nn.Module | None:
    """timm's attention without the fused kernel; `None` where there is none to change."""
    twin, changed = copy.deepcopy(model), 0
    for module in twin.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False
            changed += 1
        if getattr(module, "how", "") == "sdpa":
            module.how = "made"
            changed += 1
    return twin.eval() if changed else None


class Extra(nn.Module):
    """The network behind views, copies and casts that change nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        if x.is_floating_point():
            x = x.double().float().transpose(0, 1).contiguous().transpose(0, 1)
        return self.inner(x.unsqueeze(0).clone().squeeze(0))


def channels_last(model: nn.Module) -> nn.Module:
    """The weights in another layout."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return twin
