"""Tensors to be written: loaded one at a time, each with all that a header needs to know before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.dtypes import tensor_bytes
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.records import TensorEntry
from modelprobe.checkpoint.values.reader import MAX_READ_BYTES, TensorReader
from modelprobe.errors import BadInput, one_line
from modelprobe.report.units import size as size_text

if TYPE_CHECKING:
    import torch

PIECE_BYTES = 16 << 20
"""Bytes that are in memory at once where a tensor can be read a piece at a time."""


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """One tensor to be written; its values are fetched when their turn comes and dropped afterwards.

    `shares` is a label: tensors that carry the same one are the same tensor (tied) and must agree in shape and dtype.
    `strides` other than the packed ones are kept where the format can. `pieces`, if given, yields the same elements,
    flat and in order, and spares the memory of the whole.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], torch.Tensor]
    shares: str | None = None
    pieces: Callable[[], Iterator[torch.Tensor]] | None = None
    strides: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        """How many elements the shape has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return tensor_bytes(self.numel, self.dtype)


def to_write(reader: TensorReader, entry: TensorEntry, name: str | None = None) -> TensorToWrite:
    """A tensor of a listed file, to be written as it is; `name` replaces its own."""
    label = repr(entry.identity) if entry.storage and entry.numel else None
    return TensorToWrite(
        name=entry.name if name is None else name, shape=entry.shape, dtype=entry.dtype,
        load=lambda: loaded(reader, entry), shares=label, pieces=lambda: flat_pieces(reader, entry),
        strides=entry.strides if is_dense(entry.shape, entry.strides) else None,
    )  # fmt: skip


def loaded(reader: TensorReader, entry: TensorEntry) -> torch.Tensor:
    """Read a tensor. Raises BadInput also for a shape that torch itself cannot have, such as 0 x 2**62 x 8."""
    try:
        return reader.load(entry)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise BadInput(f"{entry.name} cannot be read: {one_line(error)}", "the file is damaged or forged") from error


def flat_pieces(reader: TensorReader, entry: TensorEntry, most: int = PIECE_BYTES) -> Iterator[torch.Tensor]:
    """The elements of a tensor in order, as flat tensors of at most `most` bytes where the file allows it."""
    if entry.strides == packed_strides(entry.shape) and reader.seekable(entry):
        item = max(1, tensor_bytes(1, entry.dtype))
        step = max(1, most // item)
        for start in range(0, entry.numel, step):
            count = min(step, entry.numel - start)
            part = replace(
                entry, shape=(count,), strides=(1,), numel=count, nbytes=count * item,
                offset=entry.offset + start * item,
            )  # fmt: skip
            yield loaded(reader, part)
    elif entry.numel:
        if entry.nbytes > MAX_READ_BYTES:
            raise BadInput(f"{entry.name} has {size_text(entry.nbytes)} of elements, more than is read")
        yield from _flat_parts(loaded(reader, entry), most)


def _flat_parts(tensor: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """A view laid flat in parts: an expanded one would be far larger than what it shows."""
    import torch

    if tensor.numel() * tensor.element_size() <= most or not tensor.dim():
        yield tensor.contiguous().reshape(-1)
    elif tensor.is_contiguous():
        yield from torch.split(tensor.reshape(-1), max(1, most // tensor.element_size()))
    elif tensor.dim() == 1:
        yield from (part.contiguous() for part in torch.split(tensor, max(1, most // tensor.element_size())))
    else:
        for part in tensor.unbind(0):
            yield from _flat_parts(part, most)


def is_dense(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether a view fills a block of memory without gaps, in whatever order (transposed, channels last)."""
    if strides is None or 0 in shape:
        return False
    step = 1
    for stride, dim in sorted((stride, dim) for stride, dim in zip(strides, shape, strict=True) if dim != 1):
        if stride != step:
            return False
        step *= dim
    return True


def checked(out: TensorToWrite) -> torch.Tensor:
    """Load a tensor whole. Raises BadInput when it is not what was announced."""
    tensor = out.load().detach()
    found = str(tensor.dtype).removeprefix("torch.")
    if tuple(tensor.shape) != out.shape or found != out.dtype:
        raise BadInput(f"{out.name} was announced as {out.dtype} {out.shape} and turned out as {found} {tensor.shape}")
    if tensor.is_complex():
        tensor = tensor.resolve_conj()
    return tensor.resolve_neg().cpu()


def flat(out: TensorToWrite) -> Iterator[torch.Tensor]:
    """The elements of a tensor in order, as flat tensors."""
    if out.pieces is not None:
        yield from out.pieces()
    elif out.numel:
        yield checked(out).contiguous().reshape(-1)


def raw_pieces(out: TensorToWrite, in_memory_order: bool) -> Iterator[memoryview]:
    """The bytes of a tensor: its elements in order or, where it has strides of its own, as they stand in memory."""
    if not in_memory_order or out.strides is None or out.strides == packed_strides(out.shape):
        yield from map(memory_of, flat(out))
    elif out.numel:
        import torch

        tensor = checked(out)
        if tensor.stride() != out.strides:
            tensor = torch.empty_strided(out.shape, out.strides, dtype=tensor.dtype).copy_(tensor)
        yield memory_of(tensor.as_strided((out.numel,), (1,)))


def memory_of(flat: Any) -> memoryview:
    """The memory of a flat tensor."""
    import torch

    return memoryview(flat.view(torch.uint8).numpy())
