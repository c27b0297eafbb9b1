"""Attention and linear layers on `meta` as a device runs them.

`meta` has the plain kernel of attention alone, and under a dispatch mode torch takes another way through linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from modelprobe.tracing.operator_parts import linear_in_place


def _plain_with_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """torch's plain attention, which adds the mask in place unless somebody watches its operators, as we do."""
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    softmax: Any = torch.ops.aten._safe_softmax
    query = query * root  # torch keeps this one; what else had a name here would be alive too long
    return torch.matmul(softmax(torch.matmul(query, key.transpose(-2, -1) * root).add_(mask), -1), value)


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


def _is_flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None,
    grouped: bool,
) -> bool:  # fmt: skip
    """Whether this torch takes its flash kernel on the CPU: asked with operands of one example, never written to."""
    operands = tuple(
        tensor if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad)
        for tensor in (query, key, value, mask)
    )
    return _cpu_choice(operands, dropout, causal, scale, grouped) == _FLASH


_FLASH = 1  # at::native::SDPBackend


@lru_cache(maxsize=1024)
def _cpu_choice(operands: tuple[Any, ...], dropout: float, causal: bool, scale: float | None, grouped: bool) -> int:
    choose: Any = torch._fused_sdp_choice
    with _disable_current_modes():
        tensors = [value if value is None else _one_example(*value) for value in operands]
        try:
            return int(choose(*tensors, dropout, causal, scale=scale, enable_gqa=grouped))
        except RuntimeError:  # operands that attention refuses, or too large to reserve
            return 0


def _one_example(shape: Any, strides: Any, dtype: torch.dtype, learns: bool) -> Tensor:
    shape = (min(shape[0], 1), *shape[1:]) if len(shape) == 4 else shape
    return torch.empty_strided(shape, strides, dtype=dtype, device="cpu", requires_grad=learns)


def _fits_gpu_kernels(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, grouped: bool) -> bool:
    """Whether flash or memory-efficient attention takes these; grouped heads flash alone, in half precision."""
    width, step = query.shape[-1], 4 if query.dtype is torch.float32 else 8  # 16 bytes, to which they align
    alike = query.shape[0] == key.shape[0] and width == key.shape[-1] == value.shape[-1] and width % step == 0
    whole = query.stride(-1) == key.stride(-1) == value.stride(-1) == 1 and (mask is None or mask.dim() in (2, 4))
    if query.shape[1] != key.shape[1]:
        alike = alike and grouped and mask is None and query.dtype in (torch.float16, torch.bfloat16)
    return alike and whole


@contextmanager
def bias_in_place() -> Iterator[None]:
    """Let linear layers add their bias in place where torch does so unless a dispatch mode watches."""
    functional: Any = torch.nn.functional
    plain = functional.linear

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        known = input.is_meta and type(weight) in (Tensor, nn.Parameter)
        out = linear_in_place(input, weight, bias) if known else None
        found: Tensor = plain(input, weight, bias) if out is None else out
        return found

    functional.linear = linear
    try:
        yield
    finally:
        functional.linear = plain


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
        if like == "cpu" and query.is_meta and query.dim() == 3 and not enable_gqa:  # as torch itself does
            lifted = attn_mask if attn_mask is None or attn_mask.dim() == 2 else attn_mask.unsqueeze(0)
            one, two, three = (tensor.unsqueeze(0) for tensor in (query, key, value))
            return attention(one, two, three, lifted, dropout_p, is_causal, scale).squeeze(0)
        four = query.is_meta and query.dim() == key.dim() == value.dim() == 4 and query.is_floating_point()
        four = four and (attn_mask is None or not attn_mask.requires_grad)
        asked = (query, key, value, attn_mask, dropout_p, is_causal, scale)
        if four and like == "cpu" and _is_flash(*asked, enable_gqa):
            mask = attn_mask
            if mask is not None and mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, 0)
            flash: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            found: Tensor = flash(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]
            return found
        if four and like == "cuda" and _fits_gpu_kernels(query, key, value, attn_mask, enable_gqa):
            return _attention_of_gpu(*asked)
        if like == "cpu" and attn_mask is not None and query.is_meta and not (dropout_p or is_causal or enable_gqa):
            return _plain_with_mask(query, key, value, attn_mask, scale)
        result: Tensor = plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return result

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
