"""What matrix products cost, in every form that torch spells them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


@formula("aten::linear", kind="matmul")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> Cost:
    """y = x W^T + b: in_features MACs per output element, one addition for the bias."""
    return Cost(out.numel() * weight.shape[-1], out.numel() if bias is not None else 0)


@formula("aten::mm", "aten::bmm", "aten::_int_mm", "aten::mv", kind="matmul")
def product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """[.., M, K] x [.., K, N]: K MACs per output element."""
    return Cost(out.numel() * a.shape[-1])


@formula("aten::matmul", kind="matmul")
def matmul(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """Any ranks, broadcast batch dimensions: the contracted length is the last dimension of the first operand."""
    return Cost(out.numel() * a.shape[-1])


@formula("aten::dot", "aten::vdot", "aten::inner", kind="matmul")
def inner_product(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """A sum over the last dimension of products."""
    return Cost(out.numel() * (a.shape[-1] if a.dim() else 1))


@formula("aten::addmm", "aten::addmv", "aten::addbmm", "aten::baddbmm", kind="matmul")
def product_plus(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1, out: Tensor) -> Cost:
    """beta c + alpha a b: a product, one addition per element, one multiplication for a factor that is not 1.

    `addbmm` sums the products of the batch, so its contraction runs over the batch as well.
    """
    rows = a.numel() // a.shape[-1] if a.shape[-1] else 0
    columns = b.shape[-1] if b.dim() == a.dim() else 1
    factors = (alpha != 1) + (beta not in (0, 1))
    return Cost(rows * columns * a.shape[-1], out.numel() * ((beta != 0) + factors))


@formula("aten::_addmm_activation", kind="matmul")
def product_activation(
    c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1, use_gelu: bool = False, out: Tensor
) -> Cost:
    """addmm followed by ReLU (1) or tanh GELU (9) in one kernel."""
    plain = product_plus(c, a, b, beta=beta, alpha=alpha, out=out)
    return Cost(plain.macs, plain.flops + out.numel() * (9 if use_gelu else 1))


@formula("aten::addr", kind="matmul")
def outer_plus(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1, out: Tensor) -> Cost:
    """beta c + alpha a b^T: one MAC per output element."""
    return Cost(out.numel(), out.numel() * ((alpha != 1) + (beta not in (0, 1))))


@formula("aten::bilinear", kind="matmul")
def bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> Cost:
    """y_k = a^T W_k b + b_k: a product with every W_k (I x J MACs), then J more, per output element."""
    _, i, j = weight.shape
    return Cost(out.numel() * (i * j + j), out.numel() if bias is not None else 0)


@formula("aten::cdist", "aten::_cdist_forward", "aten::_euclidean_dist", kind="matmul")
def pairwise_distance(a: Tensor, b: Tensor, p: float = 2.0, *_: Any, out: Tensor, **__: Any) -> Cost:
    """|a_i - b_j|_p: a subtraction and a multiply-accumulate per coordinate, a root per pair."""
    width = a.shape[-1]
    return Cost(out.numel() * width, out.numel() * (width + 1))


@formula("aten::_scaled_mm", kind="matmul")
def scaled_product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A float8 product and its rescaling, one multiplication per output element."""
    return Cost(out.numel() * a.shape[-1], out.numel())


@formula("aten::_grouped_mm", "aten::_scaled_grouped_mm", kind="matmul")
def grouped_product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Products of row groups with a matrix each. Every row meets one matrix.

    Two matrices with offsets contract over the groups together: the groups partition the contracted dimension.
    """
    if a.dim() == 2 and b.dim() == 2:
        return Cost(a.shape[0] * a.shape[1] * b.shape[1])
    return Cost(out.numel() * a.shape[-1])


@formula("aten::_weight_int8pack_mm", kind="matmul")
def int8_weight_product(a: Tensor, weight: Tensor, scales: Tensor, *, out: Tensor) -> Cost:
    """a [M, K] with int8 weight [N, K]: a product and one rescaling per output element."""
    return Cost(out.numel() * a.shape[-1], out.numel())


@formula("aten::_weight_int4pack_mm", "aten::_weight_int4pack_mm_for_cpu", kind="matmul")
def int4_weight_product(a: Tensor, weight: Tensor, group: int, scales: Tensor, *, out: Tensor) -> Cost:
    """a [M, K] with packed int4 weight: the product; each weight is unpacked as scale x q + zero once."""
    columns = out.shape[-1]
    return Cost(out.numel() * a.shape[-1], 2 * columns * a.shape[-1])


_TRANSFORM = (
    "fft_fft",
    "fft_ifft",
    "fft_fft2",
    "fft_ifft2",
    "fft_fftn",
    "fft_ifftn",
    "_fft_c2c",
)
_REAL_TRANSFORM = (
    "fft_rfft",
    "fft_irfft",
    "fft_hfft",
    "fft_ihfft",
    "fft_rfft2",
    "fft_irfft2",
    "fft_rfftn",
    "fft_irfftn",
    "_fft_r2c",
    "_fft_c2r",
)


def _transform_size(x: Tensor, out: Tensor) -> int:
    """Points of the longer side times log2 of what is transformed; the one-sided spectrum stands for its whole."""
    points = max(x.numel(), out.numel())
    return math.ceil(points * math.log2(points)) if points > 1 else 0


@formula(*(f"aten::{name}" for name in _TRANSFORM), kind="transform")
def fourier(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """5 N log2 N FLOPs, the figure that FFT libraries report (Frigo and Johnson 2005); an upper bound for a batch,
    whose logarithm is that of all points."""
    return Cost(0, 5 * _transform_size(x, out))


@formula(*(f"aten::{name}" for name in _REAL_TRANSFORM), kind="transform")
def real_fourier(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """2.5 N log2 N FLOPs: half of the complex transform."""
    return Cost(0, 5 * _transform_size(x, out) // 2)
