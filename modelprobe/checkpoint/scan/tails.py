"""Bytes behind the end of a file's own format: no loader of that format reads them, and another one might."""

from __future__ import annotations

import ast
import math
import re
import struct
from contextlib import suppress

from modelprobe.checkpoint.bytes.source import ByteSource

MAX_HEADER = 100 << 20
"""Bytes of a safetensors header, as safetensors itself bounds it."""

ZIP_END_BYTES = 22 + (1 << 16)
"""Bytes at the end of a zip among which its end record stands: the record and the longest comment."""

OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*(\d{1,18})\s*,\s*(\d{1,18})')
"""Where the bytes of a tensor begin and end, in the header of safetensors; JSON itself takes ten times the memory."""

_DESCR = re.compile(r"'descr':\s*'[<>|=]?[biufc](\d+)'")


def end_of_format(source: ByteSource, head: bytes) -> int | None:
    """Where a zip, a safetensors file or one of numpy's arrays ends; None where the format does not say."""
    with suppress(ValueError, KeyError, TypeError, struct.error, SyntaxError, AttributeError, RecursionError):
        if head[:4] == b"PK\3\4":
            return _end_of_zip(source)
        if head[8:9] == b"{":
            return _end_of_safetensors(source, int.from_bytes(head[:8], "little"))
        if head[:6] == b"\x93NUMPY":
            return _end_of_array(source, head)
    return None


def _end_of_zip(source: ByteSource) -> int | None:
    start = max(0, source.size - ZIP_END_BYTES)
    tail = source.read(start, ZIP_END_BYTES)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        return None
    (comment,) = struct.unpack_from("<H", tail, at + 20)
    return start + at + 22 + int(comment)


def _end_of_safetensors(source: ByteSource, length: int) -> int | None:
    if not 2 <= length <= min(MAX_HEADER, source.size):
        return None
    return 8 + length + max((int(place[2]) for place in OFFSETS.finditer(source.read(8, length))), default=0)


def _end_of_array(source: ByteSource, head: bytes) -> int | None:
    width = 2 if head[6] == 1 else 4
    start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    text = source.read(8 + width, min(start, 1 << 16)).decode("latin-1")
    found, shape = _DESCR.search(text), re.search(r"'shape':\s*(\([\d, ]*\))", text)
    if found is None or shape is None:
        return None
    return start + int(math.prod(ast.literal_eval(shape[1]))) * int(found[1])
