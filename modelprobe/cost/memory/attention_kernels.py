"""The attention kernel that a device would choose, on `meta`, which has the plain one alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


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
