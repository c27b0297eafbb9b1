"""What the derivatives of activations and losses cost: the table of `elementwise`, continued, in FLOPs per element.

g is the gradient of the result, x the input, y the result. What the forward kept is not computed again.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.per_output_costs import per_output_formula
from modelprobe.tracing.formulas.registry import Cost, formula

ACTIVATIONS = {
    1: "threshold_backward rrelu_with_noise_backward",  # g where x > t; g times the slope that was drawn
    2: (
        "hardtanh_backward hardshrink_backward softshrink_backward "  # two comparisons
        "leaky_relu_backward "  # a comparison and a product
        "native_dropout_backward"  # g mask scale
    ),
    3: (
        "sigmoid_backward "  # g y (1 - y)
        "tanh_backward "  # g (1 - y y)
        "logit_backward "  # g / (x (1 - x))
        "hardsigmoid_backward "  # two comparisons, g / 6
        "log_sigmoid_backward"  # g / (1 + exp(x))
    ),
    4: (
        "softplus_backward "  # g z / (1 + z), z = exp(x)
        "elu_backward "  # a comparison, g a exp(x)
        "_softmax_backward_data _sparse_softmax_backward_data "  # y (g - sum(g y))
        "_log_softmax_backward_data _sparse_log_softmax_backward_data"  # g - exp(y) sum(g)
    ),
    5: (
        "hardswish_backward "  # two comparisons, g (x / 3 + 1/2)
        "_masked_softmax_backward"  # softmax's, behind the mask
    ),
    9: "silu_backward",  # s = sigmoid(x): g s (1 + x (1 - s))
    13: "mish_backward",  # t = tanh(log1p(exp(x))), s = sigmoid(x): g (t + x s (1 - t t))
}
"""FLOPs per element of the gradient that comes out -> derivatives of activation functions."""

LOSSES = {
    3: "mse_loss_backward",  # g (x - y) 2/n
    5: (
        "smooth_l1_loss_backward huber_loss_backward "  # a difference, two comparisons, a quotient, a product
        "binary_cross_entropy_backward"  # g (x - y) / (x (1 - x))
    ),
    6: "soft_margin_loss_backward",  # z = exp(-y x): -g y z / (1 + z)
}
"""FLOPs per element of the gradient that comes out -> derivatives of losses."""


def _fill() -> None:
    for kind, table in (("activation", ACTIVATIONS), ("reduction", LOSSES)):
        for cost, names in table.items():

            def derivative(*_: Any, out: Any, cost: int = cost, **__: Any) -> Cost:
                return Cost(0, cost * out.numel())

            formula(*(f"aten::{name}" for name in names.split()), kind=kind)(derivative)


_fill()


@formula("aten::gelu_backward", kind="activation")
def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none", out: Tensor) -> Cost:
    """g (F + x f), F = (1 + erf(x / sqrt 2)) / 2 (4), f = c exp(-x x / 2) (4), and 3 to join them: 11.

    By tanh, u = k (x + a x^3) (5), t = tanh u (1): g ((1 + t) / 2 + x/2 (1 - t t) k (1 + 3 a x x)), 12 more: 18.
    """
    return Cost(0, out.numel() * (18 if approximate == "tanh" else 11))


@formula("aten::glu_backward", kind="activation")
def glu_backward(grad: Tensor, x: Tensor, dim: int = -1, *, out: Tensor) -> Cost:
    """y = a s, s = sigmoid(b): da = g s, db = da a (1 - s): 4 + 1 + 3 per element of the result."""
    return Cost(0, 8 * grad.numel())


@per_output_formula("aten::_prelu_kernel_backward", kind="activation")
def prelu_backward(grad: Tensor, x: Tensor, weight: Tensor, *, out: Any) -> tuple[Cost, ...]:
    """A comparison and a product, g w for the input and g x for the slope."""
    return Cost(0, 2 * x.numel()), Cost(0, 2 * x.numel())


@formula("aten::nll_loss_backward", "aten::nll_loss2d_backward", kind="reduction")
def negative_log_likelihood_backward(grad: Tensor, x: Tensor, target: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """-g w / total per target; the rest is zeros."""
    return Cost(0, 2 * target.numel())


@per_output_formula(
    "aten::_fake_quantize_learnable_per_tensor_affine_backward",
    "aten::_fake_quantize_learnable_per_channel_affine_backward",
    kind="quantisation",
)
def learnable_quantisation_backward(grad: Tensor, x: Tensor, *_: Any, out: Any, **__: Any) -> tuple[Cost, ...]:
    """Gradients of x, scale and zero point (Esser et al. 2020; Jain et al. 2020): x / s + z rounded (3), two
    comparisons with the bounds and a product; (q - z) - x / s, a product and a sum; a product and a sum."""
    return Cost(0, 6 * x.numel()), Cost(0, 4 * x.numel()), Cost(0, 2 * x.numel())


@formula("aten::_segment_reduce_backward", kind="reduction")
def segments_backward(*_: Any, out: Tensor, **__: Any) -> Cost:
    """One operation for each element that receives its share."""
    return Cost(0, out.numel())
