"""What elementwise operators and reductions cost: the one table, in FLOPs per element.

The unit is one arithmetic operation or comparison, or one evaluation of an elementary function (exp, log, sqrt,
tanh, erf, pow, …). A composite counts what its definition writes out, which stands beside it.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import RULES, Cost, Rule, formula

ARITHMETIC = {
    1: (
        "add sub rsub subtract mul multiply div divide true_divide floor_divide remainder fmod neg negative abs absolute "
        "sign sgn maximum minimum fmax fmin square reciprocal floor ceil round trunc fix frac exp exp2 expm1 log log2 "
        "log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh asinh acosh atanh atan2 arctan2 arctan arcsin "
        "arccos erf erfc erfinv special_erf special_expit pow float_power xlogy copysign nextafter "
        "eq ne lt le gt ge not_equal less less_equal greater greater_equal isnan isinf isfinite isclose isposinf isneginf "
        "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not "
        "bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ "
        "clamp_min clamp_max lgamma digamma deg2rad rad2deg cumsum cumprod cummax cummin angle bucketize searchsorted "
        "outer ger logaddexp2 nan_to_num"
    ),
    2: "clamp clip diff",  # a comparison with either bound; a difference and a copy
    3: (
        "lerp "  # a + w (b - a)
        "addcmul addcdiv "  # a + v b c
        "logit hypot logcumsumexp"
    ),
    4: "sigmoid logaddexp sinc",  # sigmoid: 1 / (1 + exp(-x))
}
"""FLOPs per output element -> operators that combine numbers."""

ACTIVATIONS = {
    1: "relu tanh threshold hardshrink",  # one comparison or one evaluation
    2: "relu6 hardtanh leaky_relu prelu rrelu softshrink softplus",  # two comparisons; one and a product
    3: "log_sigmoid ",
    4: "sigmoid hardsigmoid elu celu mish",  # x/6 + 1/2 clamped; exp - 1, scaled, compared; x tanh(log1p(exp x))
    5: "silu hardswish selu glu softmax log_softmax _softmax _log_softmax _safe_softmax",
}
"""FLOPs per output element -> activation functions. silu and glu are a sigmoid and a product; softmax is maximum,
subtraction, exponential, sum and division."""

REDUCTIONS = {
    1: (
        "sum mean prod amax amin max min argmax argmin any all nansum nanmean median nanmedian mode count_nonzero "
        "aminmax trace sum_to_size bincount histc  segment_reduce scatter_add scatter_reduce index_add "
        "index_reduce _unique2 unique_dim unique_consecutive equal allclose _assert_async"
    ),
    2: "norm linalg_vector_norm linalg_norm frobenius_norm dist",  # a square and a sum
    4: "var std var_mean std_mean logsumexp",  # mean, difference, square, sum; maximum, difference, exp, sum
}
"""FLOPs per input element -> operators that combine the elements of one tensor."""


def _per_output(cost: int) -> Any:
    def elementwise(*args: Any, out: Any, **_: Any) -> Cost:
        return Cost(0, cost * _first(out).numel())

    return elementwise


def _per_input(cost: int) -> Any:
    def reduction(x: Any, *args: Any, out: Any, **_: Any) -> Cost:
        # max(a, b) is elementwise and max(x) a reduction; both touch the larger side once.
        source = x if isinstance(x, Tensor) else x[0]
        return Cost(0, cost * max(source.numel(), _first(out).numel() if isinstance(_first(out), Tensor) else 0))

    return reduction


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, (list, tuple)) else out


def _fill() -> None:
    for kind, table, make in (
        ("activation", ACTIVATIONS, _per_output),
        ("elementwise", ARITHMETIC, _per_output),
        ("reduction", REDUCTIONS, _per_input),
    ):
        for cost, names in table.items():
            for name in names.split():
                RULES.setdefault(f"aten::{name}", Rule(kind, make(cost), "counted"))


_fill()


@formula("aten::gelu", kind="activation")
def gelu(x: Tensor, *, approximate: str = "none", out: Tensor) -> Cost:
    """x/2 (1 + erf(x/sqrt 2)): 5. By tanh, x/2 (1 + tanh(c (x + 0.044715 x^3))): 9 (Hendrycks and Gimpel 2016)."""
    return Cost(0, out.numel() * (9 if approximate == "tanh" else 5))


@formula("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout", kind="random")
def dropout(x: Tensor, p: float, train: bool, *, out: Tensor) -> Cost:
    """Nothing in eval mode; a product with the mask and a scaling in train mode."""
    return Cost(0, 2 * out.numel() if train and p else 0, *(() if train and p else (0, 0)))


@formula("aten::native_dropout", kind="random")
def native_dropout(x: Tensor, p: float, train: bool | None, *, out: Any) -> Cost:
    """Like dropout, with the mask as a second result."""
    return Cost(0, 2 * x.numel() if train else 0)


@formula("aten::sort", "aten::argsort", "aten::msort", "aten::topk", "aten::kthvalue", kind="sort")
def comparison_sort(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """n ceil(log2 n) comparisons per sorted row, with n the longest dimension when it is not told."""
    longest = max(x.shape, default=1)
    return Cost(0, x.numel() * max(1, math.ceil(math.log2(longest))) if longest > 1 else x.numel())


@formula("aten::cosine_similarity", kind="reduction")
def cosine_similarity(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """a b / (|a| |b|): three products and sums per coordinate, two roots, a product and a division per result."""
    return Cost(0, 6 * max(a.numel(), b.numel()) + 4 * out.numel())


@formula("aten::pairwise_distance", kind="reduction")
def pairwise(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """|a - b + eps|_p: difference, eps, power and sum per coordinate, a root per result."""
    return Cost(0, 4 * max(a.numel(), b.numel()) + out.numel())


@formula("aten::cross", "aten::linalg_cross", kind="elementwise")
def cross_product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Two products and a difference per component."""
    return Cost(0, 3 * out.numel())
