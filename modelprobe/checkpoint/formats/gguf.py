"""Reader of GGUF files (llama.cpp): the key-value block is walked with bounds, its long arrays are skipped."""

from __future__ import annotations

import struct

from modelprobe.checkpoint.bytes.cursor import Cursor
from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.dtypes import MAX_TENSOR_BYTES, element_count
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.records import Checkpoint, Finding, Item, Scalar, StorageEntry, TensorEntry
from modelprobe.errors import BadInput

MAX_KEYS = 100_000
MAX_STRINGS = 4_000_000

TYPES = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("int8", 1, 1), 25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8), 28: ("float64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("bfloat16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Tensor type: name, elements per block, bytes per block (ggml.h)."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_gguf(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a GGUF file of version 2 or 3, either byte order."""
    order = ">" if source.read(0, 4) == b"FUGG" or source.read(4, 4)[:2] == b"\0\0" else "<"
    cursor = Cursor(source, order)
    cursor.skip(4)
    version, tensors, keys = cursor.count("I"), cursor.count(), cursor.count()
    if version not in (2, 3):
        raise BadInput(f"{source.name} is GGUF version {version}; versions 2 and 3 are known")
    if keys > MAX_KEYS or tensors > limits.tensors or keys * 13 + tensors * 24 > source.size:
        raise BadInput(f"{source.name} announces {keys:,} keys and {tensors:,} tensors, more than it can hold")
    findings: list[Finding] = []
    metadata = _gguf_metadata(cursor, keys, findings)
    infos = [_info(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment > 1 << 20:
        raise BadInput(f"{source.name} has an alignment that is invalid: {alignment}")
    base = -(-cursor.at // alignment) * alignment
    entries, storages = _gguf_entries(source, infos, base, order)
    nbytes = sum(entry.nbytes for entry in entries)
    return Checkpoint(
        path=source.name, format="GGUF", version=str(version), size=source.size, tensors=tuple(entries),
        storages=storages, tree=Item("", "dict", None, "", tensors, tensors, nbytes), metadata=metadata,
        findings=tuple(findings), files=(source.name,),
    )  # fmt: skip


def _gguf_metadata(cursor: Cursor, keys: int, findings: list[Finding]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for _ in range(keys):
        name = cursor.text()
        if name in found:
            findings.append(Finding(f"the key {name} occurs twice", serious=True))
        found[name] = _gguf_value(cursor, cursor.count("I"))
    return found


def _gguf_value(cursor: Cursor, kind: int) -> Scalar:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text()
    if kind != _ARRAY:
        raise BadInput(f"{cursor.source.name} has a value of unknown type {kind}")
    inner, length = cursor.count("I"), cursor.count()
    if inner in _SCALARS:
        cursor.skip(length * struct.calcsize("<" + _SCALARS[inner]))
    elif inner == _STRING and length <= MAX_STRINGS and length * 8 <= cursor.source.size:
        for _ in range(length):
            cursor.skip(cursor.count())
    else:
        raise BadInput(f"{cursor.source.name} has an array of {length:,} values of type {inner}")
    return f"array of {length:,}"


def _info(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, dims = cursor.text(), cursor.count("I")
    if dims > 8:
        raise BadInput(f"{cursor.source.name} has a tensor of {dims:,} dimensions: {name}")
    shape = tuple(cursor.count() for _ in range(dims))[::-1]  # the file counts the fastest dimension first
    return name, shape, cursor.count("I"), cursor.count()


def _gguf_entries(
    source: ByteSource, infos: list[tuple[str, tuple[int, ...], int, int]], base: int, order: str
) -> tuple[list[TensorEntry], dict[str, StorageEntry]]:
    entries, storages = [], {}
    names: set[str] = set()
    for name, shape, kind, offset in infos:
        dtype, block, packed = TYPES.get(kind, (f"type {kind}", 1, 0))
        numel = element_count(shape, dtype)
        nbytes = -(-(numel or 0) // block) * packed
        flags = []
        if numel is None or nbytes > MAX_TENSOR_BYTES:
            flags.append("impossible-shape")
        if not packed:
            flags.append("unknown-dtype")
        if base + offset + nbytes > source.size:
            flags.append("short-storage")
        if name in names:
            flags.append("duplicate-name")
        names.add(name)
        if order == ">" and packed > 1:
            flags.append("big-endian")
        strides = packed_strides(shape) if block == 1 and packed and numel is not None else None
        located = "" if source.origin is None else "data"
        storages[name] = StorageEntry(name, nbytes, source.name, base + offset, located)
        entry = TensorEntry(
            path=(name,), shape=shape, dtype=dtype, strides=strides, nbytes=nbytes, numel=numel or 0, storage=name,
            storage_nbytes=nbytes, flags=tuple(flags),
        )  # fmt: skip
        entries.append(entry)
    return entries, storages
