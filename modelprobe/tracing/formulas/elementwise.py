"""What elementwise operators and reductions cost: the one table, in FLOPs per element.

The unit is one arithmetic operation or comparison, or one evaluation of an elementary function (exp, log, sqrt,
tanh, erf, pow, …). A composite counts what its definition writes out, which stands beside it, with the parameters
that torch gives it by default (a slope, no margin). Complex numbers: see `registry.in_real_numbers`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

_SIMPLE = """
    mul multiply div divide true_divide floor_divide remainder fmod neg negative abs absolute
    sign sgn signbit maximum minimum fmax fmin square reciprocal floor ceil round trunc fix frac exp exp2 expm1 log
    log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh asinh acosh atanh atan2 arctan2 arctan arcsin
    arccos erf erfc erfinv special_erf special_expit special_erfcx special_ndtri special_log_ndtr special_i0e
    special_i1 special_i1e i0 lgamma digamma polygamma igamma igammac special_zeta pow float_power copysign
    nextafter frexp gcd lcm heaviside deg2rad rad2deg angle conj_physical _conj_physical eq ne lt le gt ge not_equal
    less less_equal greater greater_equal isnan isinf isfinite isposinf isneginf logical_and logical_or logical_xor
    logical_not bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __and__ __or__
    __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__ clamp_min clamp_max cumsum
    cumprod cummax cummin _cummax_helper _cummin_helper outer ger
"""

ARITHMETIC = {
    1: _SIMPLE,  # one operation, one comparison or one evaluation
    2: (
        "xlogy special_xlog1py _add_relu ldexp "  # a logarithm and a product; a sum and a comparison; x 2^n
        "polar"  # a cosine and a sine, each with a product; complex results count twice
    ),
    3: (
        "lerp "  # a + w (b - a)
        "addcmul addcdiv "  # a + v b c
        "logit "  # log(x / (1 - x))
        "sinc "  # sin(pi x) / (pi x)
        "special_entr "  # -x log x
        "nan_to_num "  # a comparison for each of NaN and both infinities
        "logcumsumexp _logcumsumexp"  # exponential, sum, logarithm
    ),
    4: "hypot logaddexp logaddexp2",  # sqrt(a a + b b); log(exp(a) + exp(b))
    6: "isclose",  # |a - b| <= t + r |b|
}
"""FLOPs per output element -> operators that combine numbers."""

ACTIVATION_FLOPS = {
    1: "relu tanh threshold",  # one comparison or one evaluation
    2: (
        "relu6 hardtanh hardshrink "  # two comparisons
        "leaky_relu prelu _prelu_kernel rrelu rrelu_with_noise "  # a comparison and a product
        "softplus"  # log1p(exp(x))
    ),
    3: "softshrink",  # two comparisons and a shift
    4: (
        "sigmoid "  # 1 / (1 + exp(-x))
        "log_sigmoid log_sigmoid_forward "  # -log1p(exp(-x))
        "hardsigmoid "  # x/6 + 1/2, and two comparisons
        "elu "  # a (exp(x) - 1), and a comparison
        "mish"  # x tanh(log1p(exp(x)))
    ),
    5: (
        "silu hardswish glu "  # a sigmoid, or its hard version, and a product
        "selu celu "  # elu with one more factor
        "softmax log_softmax _softmax _log_softmax _safe_softmax "  # maximum, difference, exponential, sum, quotient
        "_sparse_softmax _sparse_log_softmax"
    ),
    6: "_masked_softmax",  # softmax behind a mask
}
"""FLOPs per output element -> activation functions."""

REDUCTIONS = {
    1: (
        "sum mean prod amax amin max min argmax argmin any all nansum nanmean median nanmedian count_nonzero aminmax "
        "_aminmax bincount segment_reduce equal _assert_async _is_all_true _is_any_true _sparse_sum "
        "linalg__powsum"
    ),
    2: "norm native_norm linalg_vector_norm histc",  # a square and a sum; a quotient (the bin) and a sum
    3: "dist renorm mse_loss",  # a difference, a square and a sum; a norm and a product
    4: "var std var_mean std_mean logsumexp soft_margin_loss",  # mean, difference, square, sum; log(sum(exp(x - m)))
    6: "smooth_l1_loss huber_loss",  # difference, modulus, comparison, square, product, sum
    7: "allclose binary_cross_entropy binary_cross_entropy_with_logits",  # -(y log p + (1 - y) log(1 - p)), summed
}
"""FLOPs per input element -> operators that combine the elements of one tensor, losses among them."""


def _per_output(cost: int) -> Any:
    def elementwise(*_: Any, out: Any, **__: Any) -> Cost:
        return Cost(0, cost * _first_result(out).numel())

    return elementwise


def _per_input(cost: int) -> Any:
    def reduction(x: Any, *_: Any, out: Any, **__: Any) -> Cost:
        # max(a, b) is elementwise and max(x) a reduction; both touch the larger side once.
        size = x.numel() if isinstance(x, Tensor) else x[0].numel()
        first = _first_result(out)
        return Cost(0, cost * max(size, first.numel() if isinstance(first, Tensor) else 0))

    return reduction


def _first_result(out: Any) -> Any:
    return out[0] if isinstance(out, (list, tuple)) else out


def _register_elementwise_kinds() -> None:
    for kind, table, make in (
        ("activation", ACTIVATION_FLOPS, _per_output),
        ("elementwise", ARITHMETIC, _per_output),
        ("reduction", REDUCTIONS, _per_input),
    ):
        for cost, names in table.items():
            formula(*(f"aten::{name}" for name in names.split()), kind=kind)(make(cost))


_register_elementwise_kinds()


@formula("aten::gelu", kind="activation")
def gelu(x: Tensor, *, approximate: str = "none", out: Tensor) -> Cost:
    """x/2 (1 + erf(x/sqrt 2)): 5. By tanh, x/2 (1 + tanh(c (x + 0.044715 x^3))): 9 (Hendrycks and Gimpel 2016)."""
    return Cost(0, out.numel() * (9 if approximate == "tanh" else 5))


@formula("aten::add", "aten::sub", "aten::rsub", "aten::subtract", kind="elementwise")
def add(x: Any, y: Any, alpha: Any = 1, *, out: Any) -> Cost:
    """x + alpha y: a sum, and a product where alpha is not 1."""
    return Cost(0, _first_result(out).numel() * (1 if alpha == 1 else 2))


@formula("aten::clamp", "aten::clip", kind="elementwise")
def clamp(x: Tensor, min: Any = None, max: Any = None, *, out: Tensor) -> Cost:
    """A comparison with each bound that is given."""
    return Cost(0, out.numel() * ((min is not None) + (max is not None)))


@formula("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout", kind="random")
def dropout(x: Tensor, p: float, train: bool, *, out: Tensor) -> Cost:
    """Nothing in eval mode; a product with the mask and a scaling in train mode."""
    return Cost(0, 2 * out.numel() if train and p else 0, *(() if train and p else (0, 0)))


@formula("aten::native_dropout", "aten::_fused_dropout", kind="random")
def native_dropout(x: Tensor, p: float, train: Any = True, *, out: Any) -> Cost:
    """Like dropout, with the mask as a second result."""
    return Cost(0, 2 * x.numel() if train else 0)


@formula("aten::cosine_similarity", kind="reduction")
def cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, *_: Any, out: Tensor, **__: Any) -> Cost:
    """a b / (|a| |b|): three products and sums per coordinate, two roots, a product and a division per result."""
    width = max((x.shape[dim] for x in (a, b) if x.dim()), default=1)
    return Cost(0, out.numel() * (6 * width + 4))


@formula("aten::pairwise_distance", kind="reduction")
def pairwise(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """|a - b + eps|_p: difference, eps, power and sum per coordinate, a root per result."""
    width = max((x.shape[-1] for x in (a, b) if x.dim()), default=1)
    return Cost(0, out.numel() * (4 * width + 1))


@formula("aten::mvlgamma", "aten::special_multigammaln", kind="elementwise")
def multivariate_log_gamma(x: Tensor, p: int, *, out: Tensor) -> Cost:
    """The sum of p log-gammas, each at an argument of its own, and a constant."""
    return Cost(0, 3 * p * out.numel())


@formula("aten::cross", "aten::linalg_cross", kind="elementwise")
def cross_product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Two products and a difference per component."""
    return Cost(0, 3 * out.numel())


@formula("aten::trace", kind="reduction")
def diagonal_sum(x: Tensor, *, out: Tensor) -> Cost:
    """A sum over the diagonal."""
    return Cost(0, min(x.shape))


@formula("aten::nll_loss_forward", "aten::nll_loss2d_forward", kind="reduction")
def negative_log_likelihood(x: Tensor, target: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """A product with the class weight and a sum per target."""
    return Cost(0, 2 * target.numel())
