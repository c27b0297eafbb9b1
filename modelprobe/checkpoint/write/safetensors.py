"""A state dict as a safetensors file: a header computed from shapes alone, then the tensors in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO

from modelprobe.checkpoint.dtypes import BITS, SAFETENSORS
from modelprobe.checkpoint.write.plan import FilePlan, WrittenTensor, write_tensor
from modelprobe.checkpoint.write.tensor import TensorToWrite, raw_pieces
from modelprobe.errors import BadInput

DTYPE_CODES = {dtype: label for label, dtype in SAFETENSORS.items() if BITS[dtype] % 8 == 0}
MAX_HEADER_BYTES = 100_000_000
"""The reference library refuses a longer one."""


class SafetensorsPlan(FilePlan):
    """The header and the order of the data.

    The header keeps the order of the tensors. The data stand by falling size of their elements, which keeps each one
    aligned without gaps: the format allows none.
    """

    def __init__(self, tensors: Sequence[TensorToWrite], metadata: Mapping[str, str] | None) -> None:
        kept, tied = _untied(tensors)
        self._order = sorted(kept, key=lambda tensor: -BITS[tensor.dtype])
        self._header = _safetensors_header(kept, self._order, {"format": "pt", **(metadata or {}), **tied})
        expected = [WrittenTensor((tensor.name,), tensor.shape, tensor.dtype, tensor.name) for tensor in kept]
        notes = []
        if tied:
            dropped, first = next(iter(tied.items()))
            many = "1 tied tensor is" if len(tied) == 1 else f"{len(tied):,} tied tensors are"
            notes.append(f"{many} kept once, recorded in the metadata: {dropped} is {first}")
        views = sum(1 for tensor in kept if tensor.strides is not None and not _is_packed(tensor))
        if views:
            notes.append(f"{views:,} transposed tensors are written in row order: the format has no strides")
        nbytes = sum(tensor.nbytes for tensor in kept)
        super().__init__(tuple(expected), nbytes + len(self._header), tuple(notes), tied)

    def emit(self, file: IO[bytes]) -> dict[str, bytes]:
        """Write everything; the digest of each tensor."""
        file.write(self._header)
        return {
            tensor.name: write_tensor(tensor, raw_pieces(tensor, in_memory_order=False), file.write)
            for tensor in self._order
        }


def _is_packed(tensor: TensorToWrite) -> bool:
    from modelprobe.checkpoint.pickle.rebuild import packed_strides

    return tensor.strides == packed_strides(tensor.shape)


def _untied(tensors: Sequence[TensorToWrite]) -> tuple[list[TensorToWrite], dict[str, str]]:
    """The tensors to keep, and which of them each dropped one is the same as."""
    kept: list[TensorToWrite] = []
    tied: dict[str, str] = {}
    labels: dict[str, TensorToWrite] = {}
    for tensor in tensors:
        if tensor.dtype not in DTYPE_CODES:
            raise BadInput(f"safetensors has no type for {tensor.name}: {tensor.dtype}", "--to pt can hold every type")
        if tensor.name == "__metadata__":
            raise BadInput("safetensors keeps the name __metadata__ for itself", "--to pt allows every name")
        first = labels.setdefault(tensor.shares, tensor) if tensor.shares is not None else tensor
        if (first.shape, first.dtype) != (tensor.shape, tensor.dtype):
            raise BadInput(f"{tensor.name} and {first.name} are tied but not of one shape and dtype")
        if first is tensor:
            kept.append(tensor)
        else:
            tied[tensor.name] = first.name
    return kept, tied


def _safetensors_header(
    kept: Sequence[TensorToWrite], order: Sequence[TensorToWrite], metadata: Mapping[str, str]
) -> bytes:
    begins, at = {}, 0
    for tensor in order:
        begins[tensor.name] = at
        at += tensor.nbytes
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    for tensor in kept:
        begin = begins[tensor.name]
        ends = [begin, begin + tensor.nbytes]
        entries[tensor.name] = {"dtype": DTYPE_CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
    try:
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"a name cannot be written as UTF-8: {error.object[:80]!r}", "--to pt allows it") from None
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise BadInput(f"the header would have {len(text):,} bytes; safetensors allows {MAX_HEADER_BYTES:,}")
    return len(text).to_bytes(8, "little") + text
