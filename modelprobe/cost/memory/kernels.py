"""What kernels of a device do with memory that `meta` does not show: fused attention, copies that oneDNN makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def reordered_bytes(operator: str, args: Sequence[Any], out: Any) -> int:
    """Bytes that oneDNN takes on a CPU for a convolution, beside its result: copies of operands in blocks of channels.

    Results too are made in blocks and then copied into what is returned. A backward pass computes the gradient of the
    input first, and holds it while it computes that of the weight. Weights of channels-last tensors are copied once
    more into that layout.
    """
    if args[0].dtype != torch.float32:
        return 0
    if not operator.startswith("aten.convolution_backward"):
        given, weight = args[:2]
        twice = _nbytes(weight) if _channels_last(given) and not _channels_last(weight) else 0
        return _nbytes(given) + _nbytes(weight) + twice
    grad, given, weight = args[:3]
    last = _channels_last(given) or _channels_last(grad)
    twice = _nbytes(weight) if last and not _channels_last(weight) else 0
    dy, x, w = _nbytes(grad), _nbytes(given), _nbytes(weight)
    first = x if out[0] is not None else 0
    channels = given.shape[1]
    if args[9] == 1 and channels % 16:  # few channels are padded to a block of 16 for the gradient of the weight
        padded = -(-channels // 16) * 16 / channels
        wide_x, wide_w = int(x * padded), int(w * padded)
    else:
        wide_x, wide_w = x, w
    moments = [max(dy + w + x, 2 * x)] if out[0] is not None else []
    moments += [first + max(wide_x + dy + wide_w, wide_w + w)] if out[1] is not None else []
    return twice + max(moments, default=0)


def _channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _attention_of_gpu(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    aten: Any = torch.ops.aten
    found: Tensor
    if mask is None and query.dtype in (torch.float16, torch.bfloat16):
        found = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, scale=scale)[0]
        return found
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, 0)
        mask = mask.expand(*query.shape[:3], key.shape[2])
    kept = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    kernel = aten._scaled_dot_product_efficient_attention
    found = kernel(query, key, value, mask, kept, dropout, causal, scale=scale)[0]
    return found


@contextmanager
def fused_attention(like: str) -> Iterator[None]:
    """Let attention on `meta` be the kernel that the device would choose; `meta` takes the plain one.

    On the CPU that is flash attention where no dropout is asked for and heads are of one size; on a GPU flash attention
    for half precision without a mask, and the memory-efficient kernel otherwise.
    """
    functional: Any = torch.nn.functional
    plain = functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        four = query.is_meta and query.dim() == key.dim() == value.dim() == 4 and query.is_floating_point()
        same = four and query.shape[-1] == key.shape[-1] == value.shape[-1] and query.shape[:2] == key.shape[:2]
        wants = attn_mask is not None and attn_mask.requires_grad
        if like == "cpu" and same and not dropout_p and not wants and not enable_gqa and 0 not in query.shape:
            mask = attn_mask
            if mask is not None and mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, 0)
            flash: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            found: Tensor = flash(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]
            return found
        if like == "cuda" and same and not enable_gqa and query.shape[-1] % 8 == 0:
            return _attention_of_gpu(query, key, value, attn_mask, dropout_p, is_causal, scale)
        result: Tensor = plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return result

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
