"""Parts of a tensor, whatever its strides: every element once, in the order of the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from modelprobe.checkpoint.dtypes import BITS
from modelprobe.checkpoint.records import TensorEntry
from modelprobe.errors import BadInput

MAX_PART_BYTES = 4 << 20
"""Bytes of one part."""

MAX_OVERLAP = 1 << 30
"""Elements of a view that shows the same memory many times over; beyond, it would take for ever."""

Dimension = tuple[int, int]
"""Stride and length of a dimension, in elements."""


def parts(entry: TensorEntry, most: int = MAX_PART_BYTES) -> Iterator[tuple[TensorEntry, int]]:
    """Parts of a readable tensor, and how many times each is shown (a stride of 0 repeats it).

    The order is that of the memory, not of the indices. Raises BadInput for an overlapping view beyond MAX_OVERLAP.
    """
    axes = [axis for axis in zip(entry.strides or (), entry.shape, strict=True) if axis[1] != 1]
    if any(length == 0 for _, length in axes):
        return
    times = math.prod(length for stride, length in axes if not stride)
    axes = _merged_axes(sorted((axis for axis in axes if axis[0]), reverse=True))
    if _span(axes) < math.prod(length for _, length in axes) > MAX_OVERLAP:
        raise BadInput(f"{entry.name} shows {entry.numel:,} elements of a storage that holds fewer, more than are read")
    for part in _spanning_parts(entry, axes, entry.offset, max(1, most * 8 // BITS[entry.dtype])):
        yield part, times


def _merged_axes(axes: list[Dimension]) -> list[Dimension]:
    """Dimensions that follow one another in memory without a gap as one: a packed tensor has one in all."""
    merged: list[Dimension] = []
    for stride, length in axes:
        if merged and merged[-1][0] == stride * length:
            merged[-1] = (stride, merged[-1][1] * length)
        else:
            merged.append((stride, length))
    return merged


def _span(axes: list[Dimension]) -> int:
    """Elements from the first to the last that the dimensions touch."""
    return 1 + sum((length - 1) * stride for stride, length in axes)


def _spanning_parts(entry: TensorEntry, axes: list[Dimension], offset: int, most: int) -> Iterator[TensorEntry]:
    """Cut the outermost dimension until what is left spans, and shows, at most so many elements."""
    item = BITS[entry.dtype] // 8
    if max(_span(axes), math.prod(length for _, length in axes)) <= most:
        strides, shape = tuple(axis[0] for axis in axes), tuple(axis[1] for axis in axes)
        count = math.prod(shape)
        yield replace(entry, shape=shape, strides=strides, offset=offset, numel=count, nbytes=count * item)
        return
    (stride, length), inner = axes[0], axes[1:]
    room = max(1, min((most - _span(inner)) // stride + 1, most // math.prod(size for _, size in inner)))
    for start in range(0, length, room):
        held = [(stride, min(room, length - start)), *inner] if room > 1 else inner
        yield from _spanning_parts(entry, held, offset + start * stride * item, most)
