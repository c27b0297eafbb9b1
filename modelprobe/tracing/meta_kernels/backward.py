"""On `meta`, the results of operators that run under autograd alone, whose own shape functions are dear as well.

As in `shortcuts`: an answer for the plain case, None for any other. A gradient has the shape, the type and the order
of memory of what it is the gradient of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modelprobe.tracing.meta_kernels.forward import Shortcut, convolution, max_pool

Gradients = tuple["Tensor | None", ...]


def general_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor | None:
    """What autograd calls for every convolution."""
    return None if transposed else convolution(x, weight, bias, stride, padding, dilation, groups)


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *rest: Any) -> Gradients | None:
    """Gradients of input, weight and bias."""
    if not _plain(grad, x, weight):
        return None
    dx, dw, db = rest[-1]
    return _wanted((x, dx), (weight, dw), (_empty(bias_sizes, grad) if bias_sizes else None, db))


def addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    """A matrix product and a row."""
    plain = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype == c.dtype
    return _empty((a.shape[0], b.shape[1]), a) if plain and tuple(c.shape) == (b.shape[1],) else None


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The result, and the statistics that the backward pass wants."""
    if not training or x.dim() < 2 or not _single(x, weight, bias, mean, var):
        return None
    if any(item is not None and tuple(item.shape) != (x.shape[1],) for item in (weight, bias, mean, var)):
        return None
    channels = (x.shape[1],)
    return _empty(x.shape, x), _empty(channels, x), _empty(channels, x)


def batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Any, var: Any, save_mean: Any, save_var: Any, *rest: Any
) -> Gradients | None:
    """Gradients of input, weight and bias; without that of the input the operator's own answer is irregular."""
    dx, dw, db = rest[-1]
    if not dx or not _single(grad, x, weight):
        return None
    one = _empty((x.shape[1],), x)
    return _wanted((x, dx), (one, dw), (one, db))


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The result, and mean and deviation of every row."""
    kept = tuple(x.shape[: x.dim() - len(shape)])
    normalised = tuple(shape)
    plain = _single(x, weight, bias) and tuple(x.shape[len(kept) :]) == normalised
    if not plain or any(item is not None and tuple(item.shape) != normalised for item in (weight, bias)):
        return None
    rows = (*kept, *(1 for _ in shape))
    return _empty(x.shape, x), _empty(rows, x), _empty(rows, x)


def layer_norm_backward(
    grad: Tensor, x: Tensor, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Any
) -> Gradients | None:
    """Gradients of input, weight and bias."""
    if not _single(grad, x, weight, bias):
        return None
    return _wanted((x, wanted[0]), (weight, wanted[1]), (bias, wanted[2]))


def max_pool_indices(x: Tensor, *geometry: Any) -> tuple[Tensor, Tensor] | None:
    """max_pool2d, and where each maximum stood."""
    out = max_pool(x, *geometry)
    return None if out is None else (out, torch.empty(out.shape, dtype=torch.int64, device="meta"))


def mean(x: Tensor, dims: Any = None, keep: bool = False) -> Tensor | None:
    """The mean along some dimensions, which is what pooling to one value becomes."""
    if dims is None or not dims or not _plain(x):
        return None
    gone = {dim % x.dim() for dim in dims}
    if len(gone) < len(dims) or (not keep and len(gone) == x.dim()):
        return None
    return _empty([1 if at in gone else n for at, n in enumerate(x.shape) if keep or at not in gone], x)


def quotient(x: Tensor, other: Any) -> Tensor | None:
    """Divided by a number, as the gradient of a mean is."""
    number = isinstance(other, (int, float)) and not isinstance(other, bool)
    return _empty(x.shape, x) if number and _plain(x) else None


def pool_backward(grad: Tensor, x: Tensor, *_: Any) -> Tensor | None:
    """The gradient of what was pooled."""
    return _empty(x.shape, x) if _plain(grad, x) else None


def derivative(grad: Tensor, x: Tensor, *_: Any) -> Tensor | None:
    """g times a function of each element of x."""
    alike = isinstance(x, Tensor) and grad.shape == x.shape
    return _empty(x.shape, x) if alike and _plain(grad, x) else None


def _plain(*tensors: Tensor | None) -> bool:
    """Of one floating-point type, in the default order of memory."""
    given = [tensor for tensor in tensors if tensor is not None]
    return given[0].dtype.is_floating_point and all(
        tensor.dtype == given[0].dtype and tensor.is_contiguous() for tensor in given
    )


def _single(*tensors: Tensor | None) -> bool:
    """The same in a type that statistics are kept in, too."""
    return tensors[0] is not None and tensors[0].dtype in (torch.float32, torch.float64) and _plain(*tensors)


def _empty(shape: Any, like: Tensor) -> Tensor:
    return torch.empty(tuple(shape), dtype=like.dtype, device="meta")


def _wanted(*gradients: tuple[Tensor | None, bool]) -> Gradients:
    return tuple(_empty(of.shape, of) if asked and of is not None else None for of, asked in gradients)


TRAINING_SHORTCUTS: dict[str, Shortcut] = {
    "aten.convolution": general_convolution,
    "aten.convolution_backward": convolution_backward,
    "aten.addmm": addmm,
    "aten.native_batch_norm": batch_norm,
    "aten.native_batch_norm_backward": batch_norm_backward,
    "aten.native_layer_norm": layer_norm,
    "aten.native_layer_norm_backward": layer_norm_backward,
    **dict.fromkeys(
        (
            f"aten.{name}_backward"
            for name in "threshold gelu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu".split()
        ),
        derivative,
    ),
    "aten._softmax_backward_data": derivative,
    "aten.max_pool2d_with_indices": max_pool_indices,
    "aten.max_pool2d_with_indices_backward": pool_backward,
    "aten.mean": mean,
    "aten.div": quotient,
}
"""Operator -> the function that tells its results on meta, or None."""
