"""What the gradients of fused attention cost. These kernels keep no scores, so they compute them once more."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


def fused(scores: int, depth: int, width: int, results: int, masked: bool = False, dropout: float = 0.0) -> Cost:
    """Five products where the forward has two, for `scores` pairs of positions, keys of `depth`, values of `width`.

    S = Q K^T again, dP = dO V^T, dV = P^T dO, dQ = dS K, dK = dS^T Q: 3 depth + 2 width MACs per score. Beside them
    per score: the scaling, P = exp(S - logsumexp), dS = P (dP - D) and its scaling (6), a sum for a mask, and for
    dropout a product and a scaling of both P and dP; D = sum(dO O) takes 2 per element of the result.
    Source: Dao et al. 2022, algorithm 4. Masked and causal attention count as dense.
    """
    return Cost(scores * (3 * depth + 2 * width), scores * (6 + masked + 4 * (dropout > 0)) + 2 * results)


def _heads_first(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, masked: bool = False, dropout: float = 0.0
) -> Cost:
    """query [.., L, E], key [.., S, E], value [.., S, Ev]."""
    width = value.shape[-1]
    scores = (grad.numel() // width if width else 0) * key.shape[-2]
    return fused(scores, query.shape[-1], width, grad.numel(), masked, dropout)


@formula("aten::_scaled_dot_product_flash_attention_for_cpu_backward", kind="attention")
def flash_for_cpu(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    *_: Any,
    attn_mask: Tensor | None = None,
    out: Any,
    **__: Any,
) -> Cost:
    """The CPU kernel."""
    return _heads_first(grad, query, key, value, attn_mask is not None, dropout_p)


@formula("aten::_scaled_dot_product_flash_attention_backward", kind="attention")
def flash(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, out: Any, **__: Any) -> Cost:
    """The CUDA kernel; of what follows the value the seventh is the dropout."""
    return _heads_first(grad, query, key, value, dropout=rest[6])


@formula("aten::_scaled_dot_product_efficient_attention_backward", kind="attention")
def efficient(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any,
    result: Tensor,
    logsumexp: Tensor,
    seed: Any,
    offset: Any,
    dropout_p: float,
    wanted: Any,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The CUDA kernel with a bias, whose own gradient is a sum per score."""
    cost = _heads_first(grad, query, key, value, _given(bias), dropout_p)
    sums = grad.numel() // max(1, value.shape[-1]) * key.shape[-2] if wanted[3] else 0
    return cost._replace(flops=cost.flops + sums)


@formula(
    "aten::_scaled_dot_product_cudnn_attention_backward",
    "aten::_cudnn_attention_backward",
    kind="attention",
)
def cudnn(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    seed: Any,
    offset: Any,
    bias: Any,
    *rest: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """cuDNN's kernel; of what follows the bias the fifth is the dropout."""
    return _heads_first(grad, query, key, value, _given(bias), rest[4])


@formula("aten::_scaled_dot_product_fused_attention_overrideable_backward", kind="attention")
def overrideable(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Any, *rest: Any, out: Any, **__: Any
) -> Cost:
    """The kernel of other backends; of what follows the bias the eighth is the dropout."""
    return _heads_first(grad, query, key, value, _given(bias), rest[7])


def _given(bias: Any) -> bool:
    # An absent bias arrives as None or as a tensor without elements.
    return isinstance(bias, Tensor) and bias.numel() > 0


def _positions_first(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, longest: int | None, masked: bool, dropout: float
) -> Cost:
    """query [B, L, H, E], or [sum of lengths, H, E] for ragged batches, which count against the longest keys."""
    keys = key.shape[1] if key.dim() == 4 else key.shape[0]
    scores = query.numel() // max(1, query.shape[-1]) * (longest or keys)
    return fused(scores, query.shape[-1], value.shape[-1], grad.numel(), masked, dropout)


@formula("aten::_flash_attention_backward", kind="attention")
def packed_flash(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    starts_q: Any,
    starts_k: Any,
    max_q: int,
    max_k: int,
    dropout_p: float,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The CUDA kernel below `_scaled_dot_product_flash_attention_backward`."""
    return _positions_first(grad, query, key, value, max_k if _given(starts_k) else None, False, dropout_p)


@formula("aten::_efficient_attention_backward", kind="attention")
def packed_efficient(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any,
    result: Tensor,
    starts_q: Any,
    starts_k: Any,
    max_q: int,
    max_k: int,
    logsumexp: Tensor,
    dropout_p: float,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The CUDA kernel below `_scaled_dot_product_efficient_attention_backward`."""
    return _positions_first(grad, query, key, value, max_k if _given(starts_k) else None, _given(bias), dropout_p)


@formula("higher_order::flex_attention_backward", kind="attention")
def flex(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """Attention with a function of each score: dense, without the function's own derivative."""
    width = value.shape[-1]
    rows = query.numel() // max(1, query.shape[-1])
    return fused(rows * key.shape[-2], query.shape[-1], width, rows * width)
