"""Memory that a kernel on a GPU takes and gives back before it returns: cuDNN's copies, buffers of column sums.

The rules for convolutions are read off what cuDNN took for 682 distinct calls on an H100 (float32 with TF32, bfloat16,
both formats); `tests.benchmarks.workspaces` measures them again. The rule for sums is torch's own
(aten/src/ATen/native/cuda/Reduce.cuh).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

SUMS_OF_POINTWISE = 16 * 4
"""Bytes for each number of a 1x1 weight: its gradient is summed in sixteen parts, in float32."""

SUMS = 4 * 2**20
"""Bytes in which the gradient of another large weight is summed: the median."""

SUMMING = ("aten.sum.dim_IntList", "aten.mean.dim")
MULTIPROCESSORS = 108
"""Of an A100. Other GPUs differ where sums of few columns are taken."""


def workspace_of_gpu(operator: str, args: Sequence[Any], out: Any) -> int:
    """Bytes that the kernel of that call holds beside its result while it runs; 0 for kernels that take none."""
    if operator == "aten.convolution":
        return _copies_of_operands(False, out, args[0], args[1], args[3], args[8])
    if operator == "aten.convolution_backward":
        return _copies_of_operands(True, args[0], args[1], args[2], args[4], args[9])
    if operator in SUMMING and isinstance(out, Tensor) and len(args) > 1 and isinstance(args[0], Tensor):
        return _column_sums(args[0], args[1])
    return 0


def _copies_of_operands(
    backward: bool, result: Any, image: Tensor, weight: Tensor, strides: Sequence[int], groups: int
) -> int:
    """Tensor cores read channels last: tensors in torch's own format are copied.

    torch's own kernels, without copies, take depthwise convolutions; cuDNN has others for images of a few channels and
    for float64, which is not copied either.
    """
    if not isinstance(result, Tensor) or image.dtype is torch.float64 or 1 < groups == image.shape[1]:
        return 0
    if not image.numel():
        return 0
    channels, places, narrow = image.shape[1], image.shape[0] * prod(image.shape[2:]), image.dtype is not torch.float32
    filled = 8 / channels if narrow and channels < 8 else 1  # half precision: eight at a time
    copied = 0 if _lies_channels_last(image) else int(image.nbytes * filled) + result.nbytes
    if groups == 1 and all(size == 1 for size in weight.shape[2:]):
        if any(step > 1 for step in strides):
            return copied if channels >= (64 if backward else 100) else 0
        few = min(channels, result.shape[1])
        if not backward or places <= 64:
            return 0
        copies = places <= 2000 or few <= 32 or (few <= 64 and places >= 2 * 10**5)
        return copied if copies else weight.numel() * SUMS_OF_POINTWISE
    if channels <= 4 and not (narrow and backward) and max(weight.shape[2:]) < (7 if backward else 5):
        return 0
    copied = copied and copied + weight.nbytes
    return copied + SUMS if backward and copied > 2 * SUMS else copied


def _column_sums(source: Tensor, dims: Any) -> int:
    """The buffer in which blocks of threads leave their parts of sums over all but the last dimension."""
    columns = source.shape[-1] if source.dim() else 1
    summed = {dim % source.dim() for dim in dims} if isinstance(dims, (list, tuple)) and source.dim() else set()
    others = {dim for dim in range(source.dim() - 1) if source.shape[dim] > 1}
    if columns < 2 or source.dim() - 1 in summed or not others or not others <= summed:
        return 0
    if not source.numel() or not source.is_contiguous():
        return 0
    rows, vector = source.numel() // columns, next(size for size in (4, 2, 1) if columns % size == 0)
    threads = 512 // vector
    width = min(_power_below(columns // vector, threads), 32)
    height = min(_power_below(rows, threads), threads // width)
    width = min(_power_below(columns // vector, threads), threads // height)
    values = -(-rows // height) if rows >= min(height * 16, 256) else rows
    grid = -(-columns // vector // width)
    target = MULTIPROCESSORS * (2048 // (width * height))
    if values == rows or values < 256 or grid > target:
        return 0
    blocks = max(min(-(-target // grid), -(-values // 16)), -(-values // 256))
    added_up_in = max(4, source.element_size())
    return added_up_in * columns * blocks * width * vector if blocks > 1 else 0


def _power_below(number: int, most: int) -> int:
    return min(1 << (max(number, 1).bit_length() - 1), most)


def _lies_channels_last(image: Tensor) -> bool:
    return image.dim() == 4 and not image.is_contiguous() and image.is_contiguous(memory_format=torch.channels_last)
