"""What the gradients of normalisations cost, per element. n is the input's elements, g the gradient that comes in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.per_output_costs import per_output_formula
from modelprobe.tracing.formulas.registry import Cost, formula


def _batch(n: int, statistics: bool, wanted: Any) -> tuple[Cost, ...]:
    """Gradients of input, weight and bias.

    db = sum g (1); dw = sum g (x - m) r (difference, product, sum: 3). With the batch's own statistics m and r,
    dx = w r (g - db/n - (x - m) k), k from dw: a product, two differences, a product (4), and both sums, also where
    weight and bias want none. With stored ones dx = w r g (1). What is per channel is left out.
    Source: Ioffe and Szegedy 2015, section 3.
    """
    x, weight, bias = (bool(item) for item in wanted)
    sums = 3 * (not weight) + (not bias)
    dx = (4 + sums if statistics else 1) * x
    return Cost(0, dx * n), Cost(0, 3 * n * weight), Cost(0, n * bias)


@per_output_formula("aten::native_batch_norm_backward", kind="norm")
def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Any,
    mean: Any,
    var: Any,
    save_mean: Any,
    save_invstd: Any,
    train: bool,
    eps: float,
    wanted: Any,
    *,
    out: Any,
) -> tuple[Cost, ...]:
    """By the batch's statistics 8, by stored ones 5, when all three gradients are wanted."""
    return _batch(x.numel(), train, wanted)


@per_output_formula("aten::batch_norm_backward", kind="norm")
def updating_batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Any,
    mean: Any,
    var: Any,
    save_mean: Any,
    save_var: Any,
    update: bool,
    eps: float,
    wanted: Any,
    *_: Any,
    out: Any,
) -> tuple[Cost, ...]:
    """The same, as newer releases call it."""
    return _batch(x.numel(), update, wanted)


@per_output_formula("aten::cudnn_batch_norm_backward", "aten::miopen_batch_norm_backward", kind="norm")
def vendor_batch_norm_backward(x: Tensor, grad: Tensor, *_: Any, out: Any, **__: Any) -> tuple[Cost, ...]:
    """Kernels for the batch's statistics, which give all three."""
    return _batch(x.numel(), True, (True, True, True))


@formula("aten::batch_norm_backward_reduce", kind="norm")
def batch_norm_sums(grad: Tensor, x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """Both sums alone (synchronised batch norm)."""
    return Cost(0, 4 * x.numel())


@formula("aten::batch_norm_backward_elemt", kind="norm")
def batch_norm_input(grad: Tensor, x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """The gradient of the input from both sums."""
    return Cost(0, 4 * x.numel())


def _layer(n: int, weighted: bool, wanted: Any) -> tuple[Cost, ...]:
    """Gradients of input, weight and bias; z = (x - m) r takes 2, v = g w takes 1 where there is a weight.

    dx = r (v - mean v - z mean(v z)): z and v, a sum, a product and a sum, a product, two differences, a product.
    dw = sum g z (2), and z where the input wants no gradient; db = sum g (1).
    Source: Ba et al. 2016, equation 4, differentiated.
    """
    x, weight, bias = (bool(item) for item in wanted)
    return (
        Cost(0, n * (9 + weighted) * x),
        Cost(0, n * (2 + 2 * (not x)) * weight),
        Cost(0, n * bias),
    )


@per_output_formula("aten::native_layer_norm_backward", kind="norm")
def layer_norm_backward(
    grad: Tensor, x: Tensor, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Any, *, out: Any
) -> tuple[Cost, ...]:
    """13 with weight and bias."""
    return _layer(x.numel(), weight is not None, wanted)


@per_output_formula("aten::native_group_norm_backward", kind="norm")
def group_norm_backward(
    grad: Tensor, x: Tensor, mean: Any, rstd: Any, weight: Any, *rest: Any, out: Any
) -> tuple[Cost, ...]:
    """The same over groups of channels."""
    return _layer(x.numel(), weight is not None, rest[-1])


@per_output_formula("aten::_fused_rms_norm_backward", kind="norm")
def rms_norm_backward(
    grad: Tensor, x: Tensor, shape: Any, rstd: Any, weight: Any, wanted: Any, *, out: Any
) -> tuple[Cost, ...]:
    """z = x r (1), v = g w (1 with a weight): dx = r (v - z mean(v z)), 5 more; dw = sum g z, 2, and z where it is
    not there yet (Zhang and Sennrich 2019)."""
    n, dx, dw = x.numel(), bool(wanted[0]), bool(wanted[1])
    return Cost(0, n * (6 + (weight is not None)) * dx), Cost(0, n * (2 + (not dx)) * dw)


@per_output_formula("aten::_weight_norm_interface_backward", kind="norm")
def weight_norm_backward(grad: Tensor, v: Tensor, *_: Any, out: Any) -> tuple[Cost, ...]:
    """w = v g / |v|: dv = g / |v| (dw - v c), a product, a difference, a product; dg, and c with it, from
    sum(dw v), 2 (Salimans and Kingma 2016, equation 3)."""
    return Cost(0, 3 * v.numel()), Cost(0, 2 * v.numel())
