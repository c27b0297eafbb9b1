"""What is compressed or packed, opened within bounds: gzip, bz2, xz, lzma, zlib, zstd, tar.

A file beyond the bounds, of a kind that is not opened, or damaged, is "not read", and says so.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modelprobe.checkpoint.bytes.source import ByteSource, Span
from modelprobe.checkpoint.scan.encoded import Memory

MAX_INFLATED = 64 << 20
"""Bytes that one compressed file is inflated to; what comes after them is not read."""

MAX_TAR_MEMBERS = 20_000
MAX_TAR_HEADER = 1 << 20
"""Bytes of a header with long names or attributes, which is read at once."""

READ_STEP = 1 << 20
FEED_BYTES = 1 << 14
"""Packed bytes that are handed over at a time: each member of a file copies what it leaves of them."""

MAX_PACKED_MEMBERS = 5_000
LEADS_OUT = "its name leads out of the archive"
ZIP_TAIL_BYTES = (1 << 16) + 22
"""Within which the end of a zip archive stands, its comment before it."""

_PICKLED = re.compile(rb"\x80[\x02-\x05]|\(*c[A-Za-z_][\w.]*\n[A-Za-z_]")

UNREAD = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x1f\x9d", "a file of `compress`"),
    (0, b"\x04\x22\x4d\x18", "a file compressed with lz4"),
    (0, b"\xff\x06\x00\x00sNaPpY", "a file compressed with snappy"),
    (0, b"LZIP", "a file compressed with lzip"),
    (0, b"MSCF", "a cabinet file"),
    (0, b"PK\3", "a truncated zip archive"),
)
"""Containers that other programs open, and this does not."""


@dataclass(frozen=True)
class Inside:
    """Something inside a container, to be looked at in its turn; or `unread`, why there is nothing to look at.

    A `risk` is something about it that a careful loader would refuse.
    """

    name: str
    data: ByteSource | None = None
    unread: str = ""
    risk: str = ""


def container_kind(head: bytes) -> str:
    """The name of the container that begins so: one that `opened` opens, or empty."""
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[:3] == b"BZh":
        return "bz2"
    if head[:6] == b"\xfd7zXZ\0":
        return "xz"
    if head[:3] == b"\x5d\0\0" and len(head) > 13:
        return "lzma"
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return "zstd"
    if head[257:262] == b"ustar":
        return "tar"
    if len(head) > 6 and head[0] == 0x78 and not int.from_bytes(head[:2], "big") % 31:
        return "zlib"
    return ""


def is_deflated(head: bytes) -> bool:
    """Whether this begins like a pickle that is packed with raw deflate, which has no sign of its own."""
    try:
        return _PICKLED.match(zlib.decompressobj(-15).decompress(head, 256)) is not None
    except zlib.error:
        return False


def leads_out(name: str) -> bool:
    """Whether unpacking a member of this name, or following a link to it, leaves the folder."""
    return name.startswith("/") or ".." in name.replace("\\", "/").split("/")


def unopened(head: bytes) -> str:
    """The container that begins so, where it is one that is not opened; or empty."""
    return next((what for at, magic, what in UNREAD if head[at : at + len(magic)] == magic), "")


def zip_behind(source: ByteSource) -> ByteSource | None:
    """The zip archive at the end of a file that begins with something else; readers that look from the end open it."""
    tail_at = max(0, source.size - ZIP_TAIL_BYTES)
    tail = source.read(tail_at, ZIP_TAIL_BYTES)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        return None
    length, start = struct.unpack_from("<II", tail, at + 12)
    first = tail_at + at - length - start
    if length and first > 0 and source.read(first + start, 4) == b"PK\1\2" and source.read(first, 4) == b"PK\3\4":
        return Span(source, first, source.size - first)
    return None


def opened(source: ByteSource, kind: str, room: int = MAX_INFLATED) -> Iterator[Inside]:
    """What is inside; of what is compressed at most `room` bytes."""
    if kind == "tar":
        yield from _tar_members(source)
        return
    data, why = _inflated(source, kind, room)
    if data:
        yield Inside(kind, Memory(data, source.name))
    if why:
        yield Inside(kind, unread=why)


def _decompressor(kind: str) -> Callable[[], Any] | None:
    if kind == "zstd":
        for name in ("compression.zstd", "backports.zstd"):
            try:
                return importlib.import_module(name).ZstdDecompressor  # type: ignore[no-any-return]
            except ImportError:
                continue
        try:
            return importlib.import_module("zstandard").ZstdDecompressor().decompressobj  # type: ignore[no-any-return]
        except ImportError:
            return None
    return {
        "gzip": lambda: zlib.decompressobj(31),
        "zlib": zlib.decompressobj,
        "deflate": lambda: zlib.decompressobj(-15),
        "bz2": bz2.BZ2Decompressor,
        "xz": lzma.LZMADecompressor,
        "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_INFLATED * 2),
    }[kind]


def _inflated(source: ByteSource, kind: str, room: int) -> tuple[bytearray, str]:
    """The inflated bytes up to the bound, and why there are no more; members that follow one another are joined."""
    make = _decompressor(kind)
    found = bytearray()
    if make is None:
        return found, "zstd is not opened without the package zstandard (pip install zstandard)"
    at, members, engine, pending = 0, 1, make(), b""
    try:
        while True:
            if not pending and getattr(engine, "needs_input", True) and at < source.size:
                pending = source.read(at, FEED_BYTES)
                at += len(pending)
            size = len(found)
            found += _step(engine, pending)
            idle = not pending and len(found) == size
            pending = bytes(getattr(engine, "unconsumed_tail", None) or b"")
            if len(found) > room:
                del found[room:]
                return found, f"inflated to more than {room >> 20} MiB"
            if engine.eof:
                at -= len(engine.unused_data)
                if not source.read(at, 16).strip(b"\0") or container_kind(source.read(at, 300)) != kind:
                    return found, ""
                members += 1
                if members > MAX_PACKED_MEMBERS:
                    return found, f"it has more than {MAX_PACKED_MEMBERS:,} parts that are compressed one by one"
                engine, pending = make(), b""
            elif idle and at >= source.size:
                return found, f"its {kind} data end early"
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError, Exception) as error:  # noqa: BLE001 - of several libraries
        return found, f"its {kind} data are damaged ({str(error)[:60] or type(error).__name__})"


def _step(engine: Any, raw: bytes) -> bytes:
    """Inflate `raw`, up to a few bytes at a time: what is left is kept by the engine or in its `unconsumed_tail`."""
    try:
        return bytes(engine.decompress(raw, READ_STEP))
    except TypeError:  # zstandard's has no bound for one step
        return bytes(engine.decompress(raw))


class _File(io.RawIOBase):
    """A source as a file that `tarfile` can read."""

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._source.size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if size > MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size) or b""

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _tar_members(source: ByteSource) -> Iterator[Inside]:
    """The files of a tar; links and names that lead out of it are risks."""
    count = 0
    try:
        with tarfile.open(fileobj=_File(source), mode="r:") as archive:
            for member in archive:
                count += 1
                if count > MAX_TAR_MEMBERS:
                    yield Inside("", unread=f"more than {MAX_TAR_MEMBERS:,} members")
                    return
                if member.issym() or member.islnk():
                    target = member.linkname
                    out = leads_out(target)
                    risk = f"a link to {target[:80]!r}, which is outside of the archive" if out else ""
                    yield Inside(member.name, risk=risk)
                elif member.isfile():
                    data = Span(source, member.offset_data, max(0, min(member.size, source.size - member.offset_data)))
                    risk = LEADS_OUT if leads_out(member.name) else ""
                    sparse = "a sparse member" if member.sparse is not None else ""
                    yield Inside(member.name, None if sparse else data, sparse, risk)
                elif not member.isdir():
                    yield Inside(member.name, risk="a device or pipe in an archive")
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        yield Inside("", unread=f"the tar archive is damaged ({str(error)[:60]})")
