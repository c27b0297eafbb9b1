"""What the gradients of convolutions and products cost: one contraction for each operand that wants a gradient."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas import convolution
from modelprobe.tracing.formulas.per_output_costs import per_output_formula
from modelprobe.tracing.formulas.registry import Cost, formula


@per_output_formula("aten::convolution_backward", kind="conv")
def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Any,
    *,
    out: Any,
) -> tuple[Cost, ...]:
    """Every MAC of the forward is a term of dx (with the weight) and of dW (with the input): the forward's figure for
    each that is wanted, padding included as there. The bias gets a sum over the gradient's elements.

    Source: the chain rule on y = sum w x; Dumoulin and Visin 2016, section 4: dx is the transposed convolution.
    """
    forward = convolution.macs(x, weight, grad, transposed)
    return _three(forward, grad.numel(), wanted)


@per_output_formula("aten::convolution_backward_overrideable", kind="conv")
def overrideable_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Any,
    *,
    out: Any,
) -> tuple[Cost, ...]:
    """The same below another backend."""
    return _three(convolution.macs(x, weight, grad, transposed), grad.numel(), wanted)


@per_output_formula("aten::linear_backward", "aten::mkldnn_linear_backward", kind="matmul")
def linear_backward(x: Tensor, grad: Tensor, weight: Tensor, wanted: Any, *, out: Any) -> tuple[Cost, ...]:
    """dx = dy W and dW = dy^T x, each as many MACs as y = x W^T; db a sum."""
    return _three(grad.numel() * weight.shape[-1], grad.numel(), wanted)


def _three(macs: int, sums: int, wanted: Any) -> tuple[Cost, ...]:
    return Cost(macs * bool(wanted[0])), Cost(macs * bool(wanted[1])), Cost(0, sums * bool(wanted[2]))


@per_output_formula("aten::matmul_backward", kind="matmul")
def matmul_backward(grad: Tensor, a: Tensor, b: Tensor, wanted: Any, *, out: Any) -> tuple[Cost, ...]:
    """da = dy b^T and db = a^T dy."""
    macs = grad.numel() * a.shape[-1]
    return Cost(macs * bool(wanted[0])), Cost(macs * bool(wanted[1]))


@formula("aten::_cdist_backward", kind="matmul")
def distance_backward(grad: Tensor, a: Tensor, b: Tensor, p: float, distances: Tensor, *, out: Tensor) -> Cost:
    """Per pair and coordinate, the derivative of |a - b|_p times the gradient, summed over b.

    p = 2: difference, product, sum, and a quotient per pair. p = 1: difference, sign, product, sum.
    p = infinity: difference, modulus, comparison, sign, product, sum. Others: difference, modulus, sign, power, two
    products and a sum, and a quotient with a power per pair.
    """
    return _distances(grad.numel(), a.shape[-1], p)


def _distances(pairs: int, width: int, p: float) -> Cost:
    if p == 0:
        return Cost()
    each = {2: 3, 1: 4, math.inf: 6}.get(p, 7)
    return Cost(0, pairs * (each * width + (1 if p == 2 else 2 if each == 7 else 0)))


@formula("aten::_pdist_backward", kind="matmul")
def own_distance_backward(grad: Tensor, x: Tensor, p: float, distances: Tensor, *, out: Tensor) -> Cost:
    """As for two sets; both points of a pair take its term, so one more sum per coordinate."""
    one = _distances(grad.numel(), x.shape[-1], p)
    return one._replace(flops=one.flops + (grad.numel() * x.shape[-1] if p else 0))


@per_output_formula("torchvision::_deform_conv2d_backward", kind="conv")
def deformable_backward(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *rest: Any, out: Any
) -> tuple[Cost, ...]:
    """Gradients of x, weight, offset, mask and bias of a deformable convolution (Dai et al. 2017; Zhu et al. 2019).

    Per tap of each input channel at each output position: the gradient of its column (W^T dy, the forward's MACs);
    for x 4 products and 4 sums; for dW (again the forward's MACs) the sample once more, 7; for each of both
    coordinates of the offset the sample's derivative 7, a product and a sum; for the mask the sample 7, a product
    and a sum. With a mask, a product with it wherever the column or the sample is used.
    """
    masked = bool(rest[-1])
    batch, _, height, width = grad.shape
    taps = batch * height * width * x.shape[1] * weight.shape[2] * weight.shape[3]
    forward = convolution.macs(x, weight, grad)
    return (
        Cost(forward, taps * (8 + masked)),
        Cost(forward, taps * (7 + masked)),
        Cost(0, taps * 2 * (9 + masked)),
        Cost(0, taps * 9 * masked),
        Cost(0, grad.numel()),
    )
