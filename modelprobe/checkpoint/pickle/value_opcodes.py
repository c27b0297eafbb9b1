"""Opcodes that carry a value (numbers, texts, bytes): one small function each.

How to add one: write the function, decorate it with its code, add a case to `tests/checkpoint/pickle/test_read.py`.
"""

from __future__ import annotations

import codecs
import contextlib
import struct

from modelprobe.checkpoint.pickle.nodes import Blob, Opaque, PickleNode
from modelprobe.checkpoint.pickle.reader import U32, U64, PickleReader, op

codecs.lookup("raw_unicode_escape")  # Python loads its codecs at first use; reading a file shall load nothing

LEAST_CALL = 8
"""Bytes that a pickle takes at least which calls something."""

MAX_INT_DIGITS = 1_000
MAX_INT_BYTES = 400

_U16 = struct.Struct("<H").unpack_from
_I32 = struct.Struct("<i").unpack_from
_F64 = struct.Struct(">d").unpack_from


@op(b"K")
def binint1(m: PickleReader) -> None:
    m.stack.append(m.buf[m.pos])
    m.pos += 1


@op(b"M")
def binint2(m: PickleReader) -> None:
    m.stack.extend(_U16(m.buf, m.pos))
    m.pos += 2


@op(b"J")
def binint(m: PickleReader) -> None:
    m.stack.extend(_I32(m.buf, m.pos))
    m.pos += 4


@op(b"X")
def binunicode(m: PickleReader) -> None:
    (length,) = U32(m.buf, m.pos)
    m.pos += 4
    _read_text(m, length)


@op(b"\x8c")
def short_binunicode(m: PickleReader) -> None:
    length = m.buf[m.pos]
    m.pos += 1
    _read_text(m, length)


@op(b"\x8d")
def binunicode8(m: PickleReader) -> None:
    (length,) = U64(m.buf, m.pos)
    m.pos += 8
    _read_text(m, length)


def _read_text(m: PickleReader, length: int) -> None:
    if length > m.limits.text:
        m.stack.append(m.blob("str", length))
        return
    at = m.base + m.pos
    raw = m.take(length)
    m.nodes += 1
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise m.broken("a text is not UTF-8") from None
    _keep_as_bytes(m, text, at)
    m.stack.append(text)


def _keep_as_bytes(m: PickleReader, text: str, at: int) -> None:
    """Where a scan asks for what is nested: protocol 2 writes bytes as a text, which may be a pickle in its turn."""
    if m.joblib and len(text) > LEAST_CALL and (not text.isascii() or "\n" in text):
        with contextlib.suppress(UnicodeEncodeError):
            m.blobs.append(Blob("str", m.feed, at, len(text), text.encode("latin-1")))


# Numbers.


@op(b"G")
def binfloat(m: PickleReader) -> None:
    m.stack.extend(_F64(m.buf, m.pos))
    m.pos += 8


@op(b"\x8a")
def long1(m: PickleReader) -> None:
    _long(m, m.take(1)[0])


@op(b"\x8b")
def long4(m: PickleReader) -> None:
    (length,) = _I32(m.buf, m.pos)
    m.pos += 4
    _long(m, length)


def _long(m: PickleReader, length: int) -> None:
    if length > MAX_INT_BYTES:  # its decimal digits would cost time that grows with their square
        m.blob("int", length)
        m.stack.append(Opaque(f"integer of {length:,} bytes"))
        return
    m.stack.append(int.from_bytes(m.take(length), "little", signed=True))


@op(b"I")
def int_(m: PickleReader) -> None:
    raw = m.line()
    m.stack.append(raw == b"01" if raw in (b"00", b"01") else _digits(m, raw))


@op(b"L")
def long_(m: PickleReader) -> None:
    m.stack.append(_digits(m, m.line().removesuffix(b"L")))


def _digits(m: PickleReader, raw: bytes) -> PickleNode:
    if len(raw) > MAX_INT_DIGITS:
        return Opaque(f"integer of {len(raw):,} digits")
    try:
        return int(raw)
    except ValueError:
        raise m.broken("a number that is none") from None


@op(b"F")
def float_(m: PickleReader) -> None:
    try:
        m.stack.append(float(m.line()[:MAX_INT_DIGITS]))
    except ValueError:
        raise m.broken("a number that is none") from None


# Texts and bytes of the older protocols, and big ones.


@op(b"V")
def unicode_(m: PickleReader) -> None:
    at = m.base + m.pos
    text = m.line().decode("raw_unicode_escape", "backslashreplace")
    m.nodes += 1
    _keep_as_bytes(m, text, at)
    m.stack.append(text)


@op(b"S")
def string(m: PickleReader) -> None:
    raw = m.line().strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b'"', b"'"):
        raise m.broken("a text without quotes")
    m.nodes += 1
    try:
        m.stack.append(_python2(codecs.escape_decode(raw[1:-1])[0]))
    except ValueError:
        raise m.broken("a text with a wrong escape") from None


@op(b"U")
def short_binstring(m: PickleReader) -> None:
    _binstring(m, m.take(1)[0])


@op(b"T")
def binstring(m: PickleReader) -> None:
    (length,) = _I32(m.buf, m.pos)
    m.pos += 4
    _binstring(m, length)


def _binstring(m: PickleReader, length: int) -> None:
    found = m.blob("bytes", length)
    text = _python2(found.data) if found.data is not None else found
    m.stack.append(text if type(text) is str else found)


def _python2(raw: bytes) -> PickleNode:
    """A Python 2 `str` is a name or binary data; only the content tells."""
    return raw.decode("ascii") if raw.isascii() else Blob("bytes", None, 0, len(raw), raw)


@op(b"C")
def short_binbytes(m: PickleReader) -> None:
    m.stack.append(m.blob("bytes", m.take(1)[0]))


@op(b"B")
def binbytes(m: PickleReader) -> None:
    (length,) = U32(m.buf, m.pos)
    m.pos += 4
    m.stack.append(m.blob("bytes", length))


@op(b"\x8e")
@op(b"\x96")
def binbytes8(m: PickleReader) -> None:
    (length,) = U64(m.buf, m.pos)
    m.pos += 8
    m.stack.append(m.blob("bytes", length))


@op(b"\x97")
def next_buffer(m: PickleReader) -> None:
    m.stack.append(Opaque("buffer kept outside the pickle"))


@op(b"\x98")
def readonly_buffer(m: PickleReader) -> None:
    m.stack[-1] = m.stack[-1]


@op(b"g")
def get_memo(m: PickleReader) -> None:
    m.get(_index(m))


@op(b"p")
def put_memo(m: PickleReader) -> None:
    m.put(_index(m))


def _index(m: PickleReader) -> int:
    index = _digits(m, m.line())
    if type(index) is not int or index < 0:
        raise m.broken("a memo index that is none")
    return index
