"""On `meta`, the results of operators whose own shape functions cost more than all the rest of a network.

torch writes them in Python: a batch norm runs through some twenty elementwise references, the first of which imports
`torch._dynamo`. The result is a shape, a dtype and an order of strides, which stands here directly. A shortcut
answers None whenever a call is not the plain case; then the operator itself runs, and raises what it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Shortcut = Callable[..., "Tensor | None"]


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> Tensor | None:
    """conv1d, conv2d, conv3d of a batch, with explicit padding and the default memory order."""
    dims = x.dim() - 2
    plain = (
        weight.dim() == x.dim()
        and x.dtype == weight.dtype
        and x.is_contiguous()
        and weight.is_contiguous()
        and not isinstance(padding, str)
        and x.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and (bias is None or (bias.dtype == x.dtype and tuple(bias.shape) == (weight.shape[0],)))
    )
    if not plain:
        return None
    geometry = zip(
        x.shape[2:],
        weight.shape[2:],
        _each(stride, dims),
        _each(padding, dims),
        _each(dilation, dims),
        strict=True,
    )
    sizes = [(size + 2 * pad - reach * (taps - 1) - 1) // step + 1 for size, taps, step, pad, reach in geometry]
    if min(sizes, default=0) < 1:
        return None
    return torch.empty((x.shape[0], weight.shape[0], *sizes), dtype=x.dtype, device="meta")


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool, *_: Any
) -> Tensor | None:
    """batch_norm with stored statistics."""
    if training or x.dim() < 2 or mean is None or var is None:
        return None
    if any(item is not None and tuple(item.shape) != (x.shape[1],) for item in (weight, bias, mean, var)):
        return None
    return torch.empty_like(x)


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    """layer_norm over the last dimensions."""
    normalised = tuple(shape)
    plain = x.is_contiguous() and normalised and tuple(x.shape[-len(normalised) :]) == normalised
    if not plain or any(item is not None and tuple(item.shape) != normalised for item in (weight, bias)):
        return None
    return torch.empty_like(x)


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


SHORTCUTS: dict[str, Shortcut] = {
    "aten.conv1d": convolution,
    "aten.conv2d": convolution,
    "aten.conv3d": convolution,
    "aten.batch_norm": batch_norm,
    "aten.layer_norm": layer_norm,
}
"""Operator -> the function that tells its result on meta, or None."""
