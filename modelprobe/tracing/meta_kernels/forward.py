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

Shortcut = Callable[..., "Tensor | tuple[Tensor | None, ...] | None"]


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
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    *_: Any,
) -> Tensor | None:
    """batch_norm, with stored statistics or with those of the batch."""
    if x.dim() < 2 or (not training and (mean is None or var is None)):
        return None
    if any(item is not None and tuple(item.shape) != (x.shape[1],) for item in (weight, bias, mean, var)):
        return None
    return _like(x)


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *_: Any
) -> Tensor | None:
    """layer_norm over the last dimensions."""
    normalised = tuple(shape)
    plain = x.is_contiguous() and normalised and tuple(x.shape[-len(normalised) :]) == normalised
    if not plain or any(item is not None and tuple(item.shape) != normalised for item in (weight, bias)):
        return None
    return _like(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """linear on any number of leading dimensions."""
    plain = (
        x.dim() >= 2
        and weight.dim() == 2
        and x.is_contiguous()
        and x.dtype == weight.dtype
        and x.shape[-1] == weight.shape[1]
        and (bias is None or (bias.dtype == x.dtype and tuple(bias.shape) == (weight.shape[0],)))
    )
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta") if plain else None


def max_pool(
    x: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
) -> Tensor | None:
    """max_pool2d of a batch, rounding down."""
    if ceil_mode or x.dim() != 4 or not x.is_contiguous() or min(x.shape[1:]) < 1:
        return None
    taps, pads = _each(kernel, 2), _each(padding, 2)
    geometry = zip(x.shape[2:], taps, _each(stride or kernel, 2), pads, _each(dilation, 2), strict=True)
    sizes = [(size + 2 * pad - reach * (tap - 1) - 1) // step + 1 for size, tap, step, pad, reach in geometry]
    if min(sizes) < 1 or any(pad > tap // 2 for pad, tap in zip(pads, taps, strict=True)):
        return None
    return torch.empty((*x.shape[:2], *sizes), dtype=x.dtype, device="meta")


def adaptive_average(x: Tensor, size: Any) -> Tensor | None:
    """adaptive_avg_pool over all the dimensions that `size` tells."""
    sizes = tuple(size) if isinstance(size, (list, tuple)) else (size,)
    batched = len(x.shape) == len(sizes) + 2
    if not batched or not x.is_contiguous() or min((*sizes, *x.shape[1:]), default=0) < 1:
        return None
    return torch.empty((*x.shape[: -len(sizes)], *sizes), dtype=x.dtype, device="meta")


def unary(x: Tensor, *_: Any) -> Tensor | None:
    """A function of each element, of floats, which stays in their type."""
    return _like(x) if x.dtype.is_floating_point else None


def binary(x: Tensor, other: Any) -> Tensor | None:
    """Two tensors of one shape, type and order of memory."""
    alike = isinstance(other, Tensor) and x.shape == other.shape and x.dtype == other.dtype
    return _like(x) if alike and x.is_contiguous() and other.is_contiguous() else None


def in_place(x: Tensor, other: Any = None, *_: Any) -> Tensor | None:
    """The tensor itself, from an operator that writes to it something of its own shape and type, or a number's."""
    if isinstance(other, Tensor) and (x.shape != other.shape or x.dtype != other.dtype):
        return None
    return x if x.dtype.is_floating_point else None


def lstm(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...] | None:
    """A whole LSTM over padded sequences, which torch would run step by step."""
    if not isinstance(states, (list, tuple)) or x.dim() != 3:
        return None
    return _sequence(x, states[0], bidirectional, batch_first), *(
        torch.empty(s.shape, dtype=s.dtype, device="meta") for s in states
    )


def recurrent(
    x: Tensor,
    state: Tensor,
    weights: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor] | None:
    """A whole GRU or Elman network over padded sequences."""
    if isinstance(weights, Tensor) or x.dim() != 3:
        return None
    return _sequence(x, state, bidirectional, batch_first), torch.empty(state.shape, dtype=state.dtype, device="meta")


def _sequence(x: Tensor, state: Tensor, bidirectional: bool, batch_first: bool) -> Tensor:
    """[T, B, directions x H], seen as [B, T, ..] when the batch comes first."""
    first, second = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    out = torch.empty((first, second, (1 + bidirectional) * state.shape[-1]), dtype=x.dtype, device="meta")
    return out.transpose(0, 1) if batch_first else out


def _like(x: Tensor) -> Tensor | None:
    """`empty_like`, which is written in Python too, for the two common orders of memory."""
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty(x.shape, dtype=x.dtype, device="meta", memory_format=torch.channels_last)
    return None


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


SHORTCUTS: dict[str, Shortcut] = {
    "aten.conv1d": convolution,
    "aten.conv2d": convolution,
    "aten.conv3d": convolution,
    "aten.batch_norm": batch_norm,
    "aten.layer_norm": layer_norm,
    "aten.linear": linear,
    "aten.max_pool2d": max_pool,
    "aten.adaptive_avg_pool2d": adaptive_average,
    **dict.fromkeys(("aten.relu", "aten.gelu", "aten.silu", "aten.sigmoid", "aten.tanh", "aten.hardswish"), unary),
    **dict.fromkeys(("aten.add", "aten.mul"), binary),
    **dict.fromkeys(("aten.relu_", "aten.silu_", "aten.hardswish_", "aten.add_", "aten.mul_"), in_place),
    "aten.lstm": lstm,
    "aten.gru": recurrent,
    "aten.rnn_tanh": recurrent,
    "aten.rnn_relu": recurrent,
}
"""Operator -> the function that tells its result on meta, or None."""
