"""Guided backpropagation, whichever way a model calls its ReLUs: module, function, method, in place or not.

captum's changes modules of `nn.ReLU` alone: of a model that calls `F.relu` as well it gives another map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_OUT_OF_PLACE: frozenset[Any] = frozenset({nn.functional.relu, torch.relu, Tensor.relu})
_IN_PLACE: frozenset[Any] = frozenset({torch.relu_, Tensor.relu_, nn.functional.relu_})


class _GuidedReLU(torch.autograd.Function):
    """A ReLU that lets through positive gradients alone (Springenberg et al. 2015, arXiv:1412.6806)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, in_place: bool) -> Tensor:
        """As torch's own."""
        out = x.relu_() if in_place else x.relu()
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient where both it and the input are positive."""
        (out,) = ctx.saved_tensors
        return torch.where(out > 0, gradients[0].clamp(min=0), 0.0), None


class GuidedReLUs(TorchFunctionMode):
    """Within, every ReLU that this thread calls is a guided one; `seen` counts them."""

    seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`F.relu` and its like."""
        named = kwargs or {}
        if func not in _OUT_OF_PLACE and func not in _IN_PLACE:
            return func(*args, **named)
        x = args[0] if args else named["input"]
        in_place = func in _IN_PLACE or bool(named.get("inplace", args[1] if len(args) > 1 else False))
        self.seen += 1
        return _GuidedReLU.apply(x, in_place)
