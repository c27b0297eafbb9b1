"""Dtypes by torch's own names without `torch.`: their bits, other spellings, and what each file format calls them."""

from __future__ import annotations

BITS = {
    "float32": 32, "float64": 64, "float16": 16, "bfloat16": 16, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "bool": 8, "complex32": 32, "complex64": 64,
    "complex128": 128, "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8, "float4_e2m1fn_x2": 8, "quint8": 8, "qint8": 8, "qint32": 32, "quint4x2": 4, "quint2x4": 2,
    "float6_e2m3": 6, "float6_e3m2": 6, "float4_e2m1": 4,
}  # fmt: skip
"""Bits of one element."""

FLOATING_DTYPES = ("float32", "float64", "float16", "bfloat16")
"""What weights may be converted to: the types that every kind of layer computes in."""

ALIASES = {
    "float": "float32", "fp32": "float32", "f32": "float32", "double": "float64", "fp64": "float64",
    "half": "float16", "fp16": "float16", "f16": "float16", "bf16": "bfloat16", "char": "int8", "short": "int16",
    "int": "int32", "long": "int64", "byte": "uint8", "boolean": "bool", "chalf": "complex32", "cfloat": "complex64",
    "cdouble": "complex128",
}  # fmt: skip

STORAGE_CLASSES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64", "QUInt8Storage": "quint8", "QInt8Storage": "qint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}  # fmt: skip
"""The dtype that a storage class of torch stands for."""

SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "F6_E2M3": "float6_e2m3",
    "F6_E3M2": "float6_e3m2", "F4": "float4_e2m1",
}  # fmt: skip

NUMPY = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool", "c16": "complex128",
    "c8": "complex64",
}  # fmt: skip

ONNX = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz",
}  # fmt: skip

EXPORTED = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz",
}  # fmt: skip
"""`torch._export.serde.schema.ScalarType`."""


def numpy_dtype(descr: str) -> tuple[str, bool]:
    """A numpy type string (`<f4`, `|u1`, `f8`) as a dtype and whether its bytes stand in big-endian order."""
    plain = descr.lstrip("<>|=")
    return NUMPY.get(plain, ""), descr.startswith(">") and plain not in ("i1", "u1", "b1")


def tensor_bytes(numel: int, dtype: str) -> int:
    """Bytes of `numel` elements, 0 for a dtype that is not known."""
    return (numel * BITS.get(dtype, 0) + 7) // 8


MAX_TENSOR_BYTES = 1 << 50
"""Bytes beyond which no tensor is believed (1 PiB)."""


def element_count(shape: tuple[int, ...], dtype: str) -> int | None:
    """The product of a shape; None when no tensor can have it (a negative dimension, more than 1 PiB)."""
    if len(shape) > 64 or (shape and min(shape) < 0):
        return None
    if 0 in shape:
        return 0
    count, most = 1, MAX_TENSOR_BYTES * 8 // max(8, BITS.get(dtype, 8))
    for dim in shape:
        count *= dim
        if count > most:
            return None
    return count
