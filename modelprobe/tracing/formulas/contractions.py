"""What matrix products cost, in every form that torch spells them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


@formula("aten::linear", "aten::mkldnn_linear", kind="matmul")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> Cost:
    """y = x W^T + b: in_features MACs per output element, one addition for the bias."""
    return Cost(_stored(weight, out.numel() * weight.shape[-1]), out.numel() if bias is not None else 0)


def _stored(a: Tensor, dense: int) -> int:
    """The part of `dense` MACs that a sparse operand really takes part in: its stored elements of all."""
    if a.layout in (torch.strided, torch._mkldnn) or not a.numel():  # type: ignore[attr-defined]
        return dense
    values = a._values() if a.layout is torch.sparse_coo else a.values()
    return dense * values.numel() // a.numel()


@formula("aten::mm", "aten::bmm", "aten::_int_mm", "aten::mv", "aten::matmul", kind="matmul")
def product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """[.., M, K] x [.., K, N], any ranks, batch dimensions broadcast: K MACs per output element, K the last dimension
    of the first operand. Only the stored elements of a sparse operand count."""
    return Cost(_stored(b, _stored(a, out.numel() * a.shape[-1])))


@formula("aten::_sparse_mm", "aten::_sparse_sparse_matmul", kind="matmul")
def sparse_product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Every stored element of [M, K] meets the N columns (of a sparse second operand, as many as it has on average)."""
    return Cost(_stored(b, _stored(a, a.numel() * b.shape[-1])))


@formula("aten::dot", "aten::vdot", "aten::inner", kind="matmul")
def inner_product(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """A sum over the last dimension of products; with a number, a product per element."""
    if not a.dim() or not b.dim():
        return Cost(0, out.numel())
    return Cost(out.numel() * a.shape[-1])


@formula("aten::addmm", "aten::addmv", "aten::addbmm", "aten::baddbmm", "aten::_sparse_addmm", kind="matmul")
def product_plus(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1, out: Tensor) -> Cost:
    """beta c + alpha a b: a product, one addition per element, one multiplication for a factor that is not 1.

    `addbmm` sums the products of the batch, so its contraction runs over the batch as well.
    """
    rows = a.numel() // a.shape[-1] if a.shape[-1] else 0
    columns = b.shape[-1] if b.dim() == a.dim() else 1
    factors = (alpha != 1) + (beta not in (0, 1))
    return Cost(_stored(a, rows * columns * a.shape[-1]), out.numel() * ((beta != 0) + factors))


@formula("aten::sparse_sampled_addmm", kind="matmul")
def sampled_product(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1, out: Tensor) -> Cost:
    """The product at the stored positions of sparse c alone: K MACs and an addition for each."""
    return Cost(_stored(c, c.numel() * a.shape[-1]), _stored(c, c.numel()))


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


@formula("aten::_trilinear", kind="matmul")
def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Any,
    expand_b: Any,
    expand_c: Any,
    summed: Any,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """What autograd makes of `bilinear`, forward and backward: the product of a and b, summed over the dimensions that
    c has not, then the product with c, summed over the others. Source: ATen/native/Linear.cpp."""

    def whole(x: Tensor, missing: Any) -> list[int]:
        sizes = list(x.shape)
        for dim in sorted(missing):
            sizes.insert(dim, 1)
        return sizes

    first = [max(pair) for pair in zip(whole(a, expand_a), whole(b, expand_b), strict=True)]
    left = [1 if dim in summed and dim in expand_c else size for dim, size in enumerate(first)]
    second = [max(pair) for pair in zip(left, whole(c, expand_c), strict=True)]
    return Cost(math.prod(first) + math.prod(second))


def _pairwise_distances(pairs: int, width: int, p: float) -> Cost:
    """p = 2: a subtraction and a MAC per coordinate, a root per pair. p = 0, 1, infinity: a subtraction, a comparison
    or modulus, and a sum or maximum. Others: subtraction, modulus, power and sum, and a root per pair."""
    if p == 2:
        return Cost(pairs * width, pairs * (width + 1))
    if p in (0, 1, math.inf):
        return Cost(0, pairs * 3 * width)
    return Cost(0, pairs * (4 * width + 1))


@formula("aten::cdist", "aten::_cdist_forward", "aten::_euclidean_dist", kind="matmul")
def pairwise_distance(a: Tensor, b: Tensor, p: float = 2.0, *_: Any, out: Tensor, **__: Any) -> Cost:
    """|a_i - b_j|_p of every pair."""
    return _pairwise_distances(out.numel(), a.shape[-1], p)


@formula("aten::pdist", "aten::_pdist_forward", kind="matmul")
def own_distance(a: Tensor, p: float = 2.0, *, out: Tensor) -> Cost:
    """|a_i - a_j|_p of every pair i < j."""
    return _pairwise_distances(out.numel(), a.shape[-1], p)


@formula("aten::_scaled_mm", "aten::_scaled_mm_v2", kind="matmul")
def scaled_product(a: Tensor, b: Tensor, *rest: Any, out: Tensor, bias: Any = None, **_: Any) -> Cost:
    """A float8 product and its rescaling by both scales, two multiplications per output element, and the bias."""
    # The scales are tensors and come first in the one operator, lists of tensors in the other; then the bias.
    place = 2 if len(rest) < 6 else 6
    given = bias if bias is not None or len(rest) <= place else rest[place]
    return Cost(out.numel() * _width(a), out.numel() * (2 + isinstance(given, Tensor)))


def _width(a: Tensor) -> int:
    # float4 is stored in pairs; a tensor of pairs has half of its columns.
    return a.shape[-1] * (2 if "float4" in str(a.dtype) else 1)


def _grouped(a: Tensor, b: Tensor, out: Tensor) -> int:
    if a.dim() == 2 and b.dim() == 2:
        return a.shape[0] * _width(a) * b.shape[1]
    return out.numel() * _width(a)


@formula("aten::_grouped_mm", kind="matmul")
def grouped_product(a: Tensor, b: Tensor, offs: Any = None, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Products of row (or column) groups with a matrix each: every row meets one matrix.

    Two matrices with offsets contract over the groups together: the groups partition the contracted dimension.
    """
    return Cost(_grouped(a, b, out), read=_reached(a, b, offs))


def _reached(a: Tensor, b: Tensor, offsets: Any) -> int | None:
    """Bytes read where rows go to one of many matrices each: no more matrices than there are rows."""
    if a.dim() != 2 or b.dim() != 3 or not b.shape[0]:
        return None
    each = b.numel() // b.shape[0] * b.element_size()
    beside = offsets.numel() * offsets.element_size() if isinstance(offsets, Tensor) else 0
    return a.numel() * a.element_size() + min(a.shape[0], b.shape[0]) * each + beside


@formula("aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2", kind="matmul")
def scaled_grouped_product(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """The same with two rescalings per output element."""
    return Cost(_grouped(a, b, out), 2 * out.numel())


@formula("aten::_weight_int8pack_mm", kind="matmul")
def int8_weight_product(a: Tensor, weight: Tensor, scales: Tensor, *, out: Tensor) -> Cost:
    """a [M, K] with int8 weight [N, K]: a product and one rescaling per output element."""
    return Cost(out.numel() * a.shape[-1], out.numel())


@formula(
    "aten::_weight_int4pack_mm",
    "aten::_weight_int4pack_mm_for_cpu",
    "aten::_weight_int4pack_mm_with_scales_and_zeros",
    "aten::_dyn_quant_matmul_4bit",
    kind="matmul",
)
def int4_weight_product(a: Tensor, weight: Tensor, *_: Any, out: Tensor) -> Cost:
    """a [M, K] with packed int4 weight: the product; each weight is unpacked as scale x q + zero once."""
    columns = out.shape[-1]
    return Cost(out.numel() * a.shape[-1], 2 * columns * a.shape[-1])
