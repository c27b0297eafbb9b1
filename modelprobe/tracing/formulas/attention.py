"""What attention costs, in every kernel that computes it. Masked and causal attention count as dense."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

SOFTMAX = 5  # per score: maximum, subtraction, exponential, sum, division


def dense(query: Tensor, key: Tensor, value: Tensor, masked: bool) -> Cost:
    """softmax(Q K^T / sqrt(E) + mask) V for query [.., L, E], key [.., S, E], value [.., S, Ev].

    L x S x (E + Ev) MACs per head; per score one scaling, one addition for a mask, and the softmax.
    Grouped queries share keys, so the count follows the query's heads. Source: Vaswani et al. 2017, section 3.2.1.
    """
    width = query.shape[-1]
    rows = query.numel() // width if width else 0
    scores = rows * key.shape[-2]
    return Cost(scores * (width + value.shape[-1]), scores * (1 + masked + SOFTMAX))


@formula(
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_attention_math_for_mps",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    kind="attention",
)
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, out: Any, **__: Any
) -> Cost:
    """The public operator and the kernels whose fourth argument is the mask."""
    return dense(query, key, value, isinstance(attn_mask, Tensor))


@formula("aten::_scaled_dot_product_flash_attention", kind="attention")
def flash_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """The CUDA kernel, which takes no mask."""
    return dense(query, key, value, masked=False)


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
    return dense(query, key, value, attn_mask is not None)


@formula("aten::_flash_attention_forward", "aten::_efficient_attention_forward", kind="attention")
def packed_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """The kernels below, with heads behind positions: query [B, L, H, E]. Ragged batches count as one sequence."""
    if query.dim() == 3:
        query, key, value = (item.unsqueeze(0) for item in (query, key, value))
    return dense(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), masked=False)


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
    """Input projections, attention and output projection in one operator."""
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
