"""What losses cost that torch computes in one operator: CTC, margins, and a projection fused with its cross entropy.

Plain losses are made of ordinary operators, or stand in `elementwise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

_STEP = 13
"""FLOPs of log(exp(a) + exp(b) + exp(c)) + p: 2 comparisons, 3 differences, 3 exponentials, 4 sums, a logarithm."""


def _states(log_probs: Tensor, targets: Tensor, times: Any, lengths: Any) -> int:
    """Time steps times states, of which a target of L labels has 2 L + 1, over the examples.

    Lengths that stand in tensors are not read: the longest that the shapes allow are meant.
    """
    examples = log_probs.shape[1] if log_probs.dim() == 3 else 1
    if isinstance(times, Sequence) and isinstance(lengths, Sequence):
        return sum(time * (2 * length + 1) for time, length in zip(times, lengths, strict=False))
    labels = examples * targets.shape[1] if targets.dim() == 2 else targets.numel()
    return log_probs.shape[0] * (2 * labels + examples)


@formula("aten::_ctc_loss", kind="loss")
def ctc(log_probs: Tensor, targets: Tensor, times: Any, lengths: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """The forward variables: for every time step and state a sum of three in the logarithm, and a product.

    Source: Graves et al. 2006, equations 6 and 7.
    """
    return Cost(0, _STEP * _states(log_probs, targets, times, lengths))


@formula("aten::_ctc_loss_backward", kind="loss")
def ctc_backward(
    grad: Tensor, log_probs: Tensor, targets: Tensor, times: Any, lengths: Any, *_: Any, out: Tensor, **__: Any
) -> Cost:
    """The backward variables, their sum with the forward ones per class (5 more), and 4 per element of the gradient:
    two exponentials, a difference, a product. Source: equations 10, 15 and 16."""
    return Cost(0, (_STEP + 5) * _states(log_probs, targets, times, lengths) + 4 * out.numel())


@formula("aten::multi_margin_loss", "aten::multi_margin_loss_backward", kind="loss")
def margins(*args: Any, out: Tensor, **_: Any) -> Cost:
    """max(0, m - x_y + x_i)^p: two sums, a comparison and a power per class; its derivative as much."""
    return Cost(0, 4 * max(arg.numel() for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()))


@formula("aten::multilabel_margin_loss_forward", "aten::multilabel_margin_loss_backward", kind="loss")
def multilabel_margins(*args: Any, out: Any, **_: Any) -> Cost:
    """max(0, 1 - x_t + x_i): four per class and target; as many targets as there are classes, the most there may be."""
    x = max((arg for arg in args if isinstance(arg, Tensor)), key=lambda arg: arg.dim())
    return Cost(0, 4 * x.numel() * (x.shape[-1] if x.dim() else 1))


def _projected(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, products: int) -> Cost:
    """N x F rows against V classes: products of N F V each; per logit the bias and a softmax's maximum, difference,
    exponential and sum, and a quotient where gradients are computed; per row a quotient, a logarithm and two sums."""
    rows, logits = x.numel() // x.shape[-1], x.numel() // x.shape[-1] * weight.shape[0]
    each = 4 + (bias is not None) + (products > 1)
    return Cost(products * x.numel() * weight.shape[0], each * logits + 4 * rows)


@formula("torch_nn::_linear_cross_entropy_batch_chunked", kind="loss")
def linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor, bias: Any, *rest: Any, out: Any, **_: Any) -> Cost:
    """The projection, and a product as large for the gradient of the input and of the weight each, where asked for."""
    wants_input, wants_weight = rest[-3:-1]
    return _projected(x, weight, target, bias, 1 + bool(wants_input) + bool(wants_weight))


@formula("torch_nn::_linear_cross_entropy_batch_chunked_no_reduction", kind="loss")
def linear_cross_entropy_each(
    x: Tensor, weight: Tensor, target: Tensor, bias: Any, *_: Any, out: Any, **__: Any
) -> Cost:
    """The projection; its gradients are computed by ordinary operators in the backward pass."""
    return _projected(x, weight, target, bias, 1)
