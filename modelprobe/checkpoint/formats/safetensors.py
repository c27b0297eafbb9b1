"""Reader of safetensors files: the JSON header alone, with the checks of the reference library and one more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelprobe.checkpoint.bytes.json import parse_json
from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.bytes.zip import AGAIN
from modelprobe.checkpoint.dtypes import BITS, SAFETENSORS, element_count, tensor_bytes
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.records import (
    Checkpoint,
    Finding,
    Item,
    Scalar,
    StorageEntry,
    TensorEntry,
    new_storage,
    new_tensor,
)
from modelprobe.errors import BadInput

Extent = tuple[int, int, str]


def read_safetensors(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a safetensors file. Refused: duplicate names, overlaps, holes, and data that end where the file does not."""
    length = int.from_bytes(source.read(0, 8), "little")
    if length > source.size - 8:
        raise BadInput(f"{source.name} ends within its header of {length:,} bytes", AGAIN)
    if length > limits.header:
        raise BadInput(f"{source.name} has a header of {length:,} bytes; at most {limits.header:,} are read")
    header = parse_json(source.read(8, length), source.name, "header")
    if not isinstance(header, dict):
        raise BadInput(f"{source.name} is a damaged safetensors file: its header is not an object")
    metadata, findings = _header_metadata(header.pop("__metadata__", None))
    tensors, storages, extents = [], {}, []
    for name, entry in header.items():
        tensor, storage, extent = _header_tensor(source, name, entry, 8 + length)
        tensors.append(tensor)
        storages[name] = storage
        extents.append(extent)
    _no_gaps(source, extents, source.size - 8 - length)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    tree = Item("", "dict", None, "", len(tensors), len(tensors), nbytes)
    return Checkpoint(
        path=source.name, format="safetensors", size=source.size, tensors=tuple(tensors), storages=storages,
        tree=tree, metadata=metadata, findings=tuple(findings), files=(source.name,),
    )  # fmt: skip


def _header_metadata(found: Any) -> tuple[Mapping[str, Scalar], list[Finding]]:
    if found is None:
        return {}, []
    if not isinstance(found, dict):
        return {}, [Finding("__metadata__ is not an object", serious=True)]
    odd = [key for key, value in found.items() if not isinstance(value, str)]
    findings = [Finding(f"__metadata__ holds a value that is not text, under {odd[0]}", serious=True)] if odd else []
    return {key: value for key, value in found.items() if isinstance(value, str)}, findings


def _header_tensor(source: ByteSource, name: str, entry: Any, base: int) -> tuple[TensorEntry, StorageEntry, Extent]:
    fields = entry if isinstance(entry, dict) else {}
    shape, label, ends = _integers(fields.get("shape")), fields.get("dtype"), _integers(fields.get("data_offsets"))
    if shape is None or ends is None or len(ends) != 2 or not isinstance(label, str) or not 0 <= ends[0] <= ends[1]:
        raise BadInput(f"{source.name} is a damaged safetensors file: its entry {name} is invalid")
    begin, end = ends
    dtype = SAFETENSORS.get(label, "")
    numel = element_count(shape, dtype)
    if numel is None or (dtype and tensor_bytes(numel, dtype) != end - begin):
        raise BadInput(
            f"{source.name} is a damaged safetensors file: the shape of {name} does not fit its {end - begin:,} bytes"
        )
    flags = () if dtype else ("unknown-dtype",)
    strides = packed_strides(shape) if BITS.get(dtype, 8) >= 8 else None
    tensor = new_tensor(
        path=(name,), shape=shape, dtype=dtype or label, strides=strides, nbytes=end - begin, numel=numel,
        storage=name, storage_nbytes=end - begin, device="", flags=flags,
    )  # fmt: skip
    position = (source.origin or 0) + base + begin
    located = "" if source.origin is None else "data"
    return tensor, new_storage(name, end - begin, source.name, position, located), (begin, end, name)


def _integers(value: Any) -> tuple[int, ...] | None:
    sane = isinstance(value, list) and len(value) <= 64 and all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if sane else None


def _no_gaps(source: ByteSource, extents: list[Extent], available: int) -> None:
    """Every byte belongs to exactly one tensor: otherwise the file is damaged, or hides something."""
    reached, before = 0, "the header"
    for begin, end, name in sorted(extents):
        if begin != reached:
            what = "overlap" if begin < reached else "have a gap between them"
            raise BadInput(f"{source.name} is a damaged safetensors file: {before} and {name} {what}")
        reached, before = end, name
    if reached > available:
        raise BadInput(f"{source.name} is incomplete: {reached - available:,} bytes are missing at the end", AGAIN)
    if reached < available:
        raise BadInput(f"{source.name} has {available - reached:,} bytes that belong to no tensor")
