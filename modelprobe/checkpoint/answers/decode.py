"""Bytes of a tensor as numbers: every dtype to numpy, without torch.

Floats of 8 bits and bfloat16, which numpy does not know, are decoded by their definitions: OCP 8-bit floating point
(e4m3fn, e5m2), arXiv 2206.02915 (the fnuz variants), OCP microscaling (e8m0). Blocks of GGUF: ggml's
`ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any, TypeAlias

import numpy

from modelprobe.checkpoint.formats.gguf import TYPES
from modelprobe.checkpoint.records import DISTRIBUTED, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.chunks import MAX_PART_BYTES, parts
from modelprobe.checkpoint.values.gather import ZERO, gather
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.tensor import TensorToWrite, flat, memory_of
from modelprobe.errors import BadInput, ProbeError

NumpyArray: TypeAlias = "numpy.ndarray[Any, Any]"
Pieces: TypeAlias = Iterator[tuple[NumpyArray, int]]
"""Flat numbers, and how many times the tensor shows each."""

PLAIN = {
    name: name
    for name in (
        "float64 float32 float16 int64 int32 int16 int8 bool uint64 uint32 uint16 uint8 complex128 complex64"
    ).split()
} | {"quint8": "uint8", "qint8": "int8", "qint32": "int32"}
"""The numpy dtype of the elements as they are stored; of quantized ones those are integers."""

FLOAT8 = {
    "float8_e4m3fn": (4, 3, 7, "fn"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fnuz": (4, 3, 8, "fnuz"),
    "float8_e5m2fnuz": (5, 2, 16, "fnuz"),
}
"""Bits of the exponent and of the fraction, bias, and which codes are no numbers."""

BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Block types of GGUF that are one scale (and one minimum) times small integers."""


class ValueReader:
    """The numbers of a branch's tensors, a part at a time; its files stay open until `stack` is closed."""

    def __init__(self, checkpoint: Checkpoint, branch: str, stack: ExitStack) -> None:
        self._reader = stack.enter_context(TensorReader(checkpoint))
        self._gathered: dict[str, TensorToWrite] = {}
        if checkpoint.format in (DISTRIBUTED, ZERO):  # pieces of several ranks make one tensor
            with suppress(ProbeError):  # then each tensor is said to be unreadable
                self._gathered = {tensor.name: tensor for tensor in gather(checkpoint, stack, branch or None).tensors}

    def pieces(self, name: str, entry: TensorEntry) -> Pieces:
        """The tensor called `name` in the branch. Raises BadInput, at the first step, when it cannot be read."""
        if name in self._gathered:
            return ((decode(bytes(memory_of(piece)), entry.dtype), 1) for piece in flat(self._gathered[name]))
        if entry.dtype in BLOCKS:
            return self._unpacked(entry)
        return self._plain(entry)

    def _plain(self, entry: TensorEntry) -> Pieces:
        self._reader.check(entry)
        for part, times in parts(entry):
            data, start = self._reader.raw(part)
            elements = numpy.ndarray(
                part.shape,
                _stored_dtype(entry),
                data,
                start,
                tuple(step * _element_bytes(entry) for step in part.strides or ()),
            )
            numbers = decode(elements.reshape(-1), entry.dtype)
            numbers = numbers.conj() if "conjugate" in entry.flags else numbers
            yield -numbers if "negated" in entry.flags else numbers, times

    def _unpacked(self, entry: TensorEntry) -> Pieces:
        _, block, packed = next(kind for kind in TYPES.values() if kind[0] == entry.dtype)
        step = MAX_PART_BYTES // 4 // packed * packed  # one byte becomes up to four
        left = entry.numel
        for start in range(0, entry.nbytes, step):
            data = self._reader.packed(entry, start, min(step, entry.nbytes - start))
            yield unpack(numpy.frombuffer(data, numpy.uint8).reshape(-1, packed), entry.dtype)[:left], 1
            left -= len(data) // packed * block


def _stored_dtype(entry: TensorEntry) -> numpy.dtype[Any]:
    """The numpy dtype in which the elements lie in the file."""
    name = PLAIN.get(entry.dtype)
    if name is None:
        name = {"bfloat16": "uint16", "complex32": "2float16", "float8_e8m0fnu": "uint8"}.get(entry.dtype)
    if name is None and entry.dtype in FLOAT8:
        name = "uint8"
    if name is None:
        raise BadInput(f"{entry.name} cannot be read as plain values: {entry.dtype} packs its elements")
    dtype = numpy.dtype([("re", "f2"), ("im", "f2")]) if name == "2float16" else numpy.dtype(name)
    return dtype.newbyteorder(">") if "big-endian" in entry.flags else dtype


def _element_bytes(entry: TensorEntry) -> int:
    return int(_stored_dtype(entry).itemsize)


def decode(stored: NumpyArray | bytes, dtype: str) -> NumpyArray:
    """Elements as they are stored, or their bytes, as flat numbers that numpy can compute with."""
    if dtype == "bfloat16":
        wide = _viewed(stored, "uint16").astype(numpy.uint32) << numpy.uint32(16)
        floats: NumpyArray = wide.view(numpy.float32)
        return floats
    if dtype == "complex32":
        pairs = _viewed(stored, [("re", "f2"), ("im", "f2")])
        return pairs["re"].astype(numpy.complex64) + 1j * pairs["im"].astype(numpy.complex64)
    if dtype in FLOAT8 or dtype == "float8_e8m0fnu":
        return _code_table(dtype)[_viewed(stored, "uint8")]
    return _viewed(stored, PLAIN[dtype])


def _viewed(stored: NumpyArray | bytes, dtype: Any) -> NumpyArray:
    if isinstance(stored, bytes):
        return numpy.frombuffer(stored, dtype)
    return stored if stored.dtype.isnative else stored.astype(stored.dtype.newbyteorder("="))


@cache
def _code_table(dtype: str) -> NumpyArray:
    """The number of each of the 256 codes."""
    codes = numpy.arange(256)
    if dtype == "float8_e8m0fnu":
        return numpy.where(codes == 255, numpy.nan, numpy.exp2(codes - 127.0))
    exponent_bits, fraction_bits, bias, special = FLOAT8[dtype]
    sign = numpy.where(codes & 0x80, -1.0, 1.0)
    exponent, fraction = codes >> fraction_bits & (1 << exponent_bits) - 1, codes & (1 << fraction_bits) - 1
    normal = (1 + fraction / (1 << fraction_bits)) * numpy.exp2(exponent - float(bias))
    subnormal = fraction / (1 << fraction_bits) * numpy.exp2(1.0 - bias)
    found: NumpyArray = sign * numpy.where(exponent > 0, normal, subnormal)
    if special == "fnuz":
        found[0x80] = numpy.nan  # the code of a negative zero
    elif special == "fn":
        found[codes & 0x7F == 0x7F] = numpy.nan
    else:
        top = exponent == (1 << exponent_bits) - 1
        found = numpy.where(top, numpy.where(fraction == 0, sign * numpy.inf, numpy.nan), found)
    return found


def unpack(blocks: NumpyArray, kind: str) -> NumpyArray:
    """Blocks of 32 numbers of GGUF: a scale (float16), a minimum in the `_1` kinds, fifth bits, then the integers."""
    scale = blocks[:, :2].copy().view(numpy.float16).astype(numpy.float32)
    found: NumpyArray
    if kind == "Q8_0":
        found = scale * blocks[:, 2:].copy().view(numpy.int8)
        return found.reshape(-1)
    at, five = 4 if kind.endswith("_1") else 2, kind.startswith("Q5")
    low = blocks[:, at + 4 * five :]
    numbers = numpy.concatenate([low & 15, low >> 4], axis=1).astype(numpy.int16)
    if five:
        numbers |= numpy.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little").astype(numpy.int16) << 4
    if kind.endswith("_1"):
        found = scale * numbers + blocks[:, 2:4].copy().view(numpy.float16).astype(numpy.float32)
    else:
        found = scale * (numbers - (16 if five else 8))
    return found.reshape(-1)
