"""What attention costs, in every kernel that computes it. Masked and causal attention count as dense."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

SOFTMAX = 5  # per score: maximum, subtraction, exponential, sum, division


def dense(query: Tensor, key: Tensor, value: Tensor, out: Tensor, masked: bool = False, dropout: float = 0.0) -> Cost:
    """softmax(Q K^T / sqrt(E) + mask) V for query [.., L, E], key [.., S, E], value [.., S, Ev], out [.., L, Ev].

    L x S x (E + Ev) MACs per head; per score one scaling, one addition for a mask, the softmax, and for dropout a
    product with the mask and a scaling. Grouped queries share keys and batches broadcast, so the count follows the
    rows of the result. Nested tensors cost what their components do. Source: Vaswani et al. 2017, section 3.2.1.
    """
    if out.is_nested:
        parts = zip(query.unbind(), key.unbind(), value.unbind(), out.unbind(), strict=True)
        costs = [dense(*part, masked, dropout) for part in parts]
        return Cost(sum(cost.macs for cost in costs), sum(cost.flops for cost in costs))
    depth, width = query.shape[-1], value.shape[-1]
    scores = (out.numel() // width if width else 0) * key.shape[-2]
    return Cost(scores * (depth + width), scores * (1 + masked + SOFTMAX + 2 * (dropout > 0)))


def _result(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, (list, tuple)) else out
    return found


@formula(
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_attention_math_for_mps",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    kind="attention",
)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The public operator and the kernels with its arguments."""
    return dense(query, key, value, _result(out), isinstance(attn_mask, Tensor), dropout_p)


@formula("aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_cudnn_attention", kind="attention")
def biased_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The CUDA kernels that take a bias."""
    return dense(query, key, value, _result(out), attn_bias is not None, dropout_p)


@formula("aten::_scaled_dot_product_flash_attention", kind="attention")
def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, *_: Any, out: Any, **__: Any
) -> Cost:
    """The CUDA kernel, which takes no mask."""
    return dense(query, key, value, _result(out), dropout=dropout_p)


@formula("aten::_scaled_dot_product_flash_attention_for_cpu", kind="attention")
def flash_attention_for_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
    out: Any,
) -> Cost:
    """The CPU kernel, whose mask is a keyword."""
    return dense(query, key, value, _result(out), attn_mask is not None, dropout_p)


@formula("higher_order::flex_attention", kind="attention")
def flex_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """Attention with a function of each score and a block mask (Dong et al. 2024): dense, whatever the mask skips;
    the function's own arithmetic is not seen."""
    return dense(query, key, value, _result(out))


def _packed(query: Tensor, key: Tensor, value: Tensor, longest: int | None, masked: bool, dropout: float) -> Cost:
    """Heads behind positions: query [B, L, H, E], or [sum of lengths, H, E] for ragged batches.

    Lengths are data; every query of a ragged batch counts against the longest of the batch's sequences of keys.
    """
    keys = key.shape[1] if key.dim() == 4 else key.shape[0]
    scores = query.numel() // max(1, query.shape[-1]) * (longest or keys)
    return Cost(scores * (query.shape[-1] + value.shape[-1]), scores * (1 + masked + SOFTMAX + 2 * (dropout > 0)))


@formula("aten::_flash_attention_forward", kind="attention")
def packed_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_q: Tensor | None,
    starts_k: Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float = 0.0,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The CUDA kernel below `_scaled_dot_product_flash_attention`."""
    return _packed(query, key, value, max_k if starts_k is not None else None, False, dropout_p)


@formula("aten::_efficient_attention_forward", kind="attention")
def packed_efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    starts_q: Tensor | None,
    starts_k: Tensor | None,
    max_q: int | None,
    max_k: int | None,
    dropout_p: float = 0.0,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """The CUDA kernel below `_scaled_dot_product_efficient_attention`; ragged batches are [1, sum of lengths, H, E]."""
    return _packed(query, key, value, max_k if starts_k is not None else None, bias is not None, dropout_p)


@formula("aten::_native_multi_head_attention", kind="attention")
def fused_multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """Input projections, attention and output projection in one operator.

    `key` and `value` have the width of `query`: the operator takes one stacked weight for the three.
    """
    batch, length = query.shape[0], query.shape[1]
    return _encoder_attention(batch, length, key.shape[1], embed_dim, num_head, mask is not None)


@formula("aten::_transformer_encoder_layer_fwd", kind="attention")
def fused_encoder_layer(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    *_: Any,
    out: Tensor,
    **__: Any,
) -> Cost:
    """A whole encoder layer in one operator: attention, two layer norms (7), two residuals, the feed-forward part."""
    batch, length = src.shape[0], src.shape[1]
    attention = _encoder_attention(batch, length, length, embed_dim, num_heads, mask is not None)
    tokens, hidden = batch * length, ffn_weight_1.shape[0]
    macs = attention.macs + 2 * tokens * embed_dim * hidden
    activation = 5 if use_gelu else 1
    flops = attention.flops + tokens * (embed_dim * (2 * 7 + 2 + 1) + hidden * (1 + activation))
    return Cost(macs, flops)


def _encoder_attention(batch: int, length: int, keys: int, width: int, heads: int, masked: bool) -> Cost:
    projections = batch * (2 * length + 2 * keys) * width * width
    biases = batch * (2 * length + 2 * keys) * width
    scores = batch * heads * length * keys
    per_head = width // heads if heads else 0
    return Cost(projections + scores * 2 * per_head, biases + scores * (1 + masked + SOFTMAX))
