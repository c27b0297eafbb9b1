"""What the tests of the formulas share: one expression as a model, its cost on meta and for real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import OpCall, Trace

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

sees_higher_order = pytest.mark.skipif(TORCH < (2, 8), reason="this torch runs higher-order operators under no mode")


class Expression(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def costs(found: Trace) -> list[tuple[str, int, int]]:
    """What costs something, in order. A copy more or less, where a kernel's result is laid out otherwise, is none."""
    return [(op.name, op.macs, op.flops) for op in found.ops if op.macs or op.flops]


def both(function: Callable[..., Any], *args: Tensor, train: bool = False) -> Trace:
    """The ledger on meta, once it is clear that a real run costs the same and that nothing is uncounted."""
    model = function if isinstance(function, nn.Module) else Expression(function)
    meta = trace(model, *args, train=train)
    real = trace(model, *args, device="real", train=train)
    assert not meta.notes, meta.notes
    assert not meta.uncounted, meta.uncounted
    assert costs(meta) == costs(real)
    return meta


def really(model: Callable[..., Any], *args: Tensor) -> Trace:
    """The ledger of a real run, of what has no meta kernels; that may depend on the data."""
    found = trace(model if isinstance(model, nn.Module) else Expression(model), *args, device="real")
    assert not found.uncounted, found.uncounted
    assert {gap.kind for gap in found.gaps} <= {"data-dependent"}
    assert len(found.notes) == len(found.gaps), found.notes
    return found


def macs(function: Callable[..., Any], *args: Tensor) -> int:
    """MACs, on meta as for real."""
    return both(function, *args).macs


def beside(found: Trace) -> int:
    """The FLOPs that are not MACs."""
    return found.flops - 2 * found.macs


def flops(function: Callable[..., Any], *args: Tensor, train: bool = False) -> int:
    """FLOPs beside the MACs, on meta as for real."""
    return beside(both(function, *args, train=train))


def only(found: Trace, name: str) -> OpCall:
    """The one call of an operator."""
    (call,) = [op for op in found.ops if op.name == name]
    return call


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of that shape; values do not matter."""
    return torch.zeros(shape, dtype=dtype)
