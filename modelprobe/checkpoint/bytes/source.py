"""Bytes of a weight file, read by position and bounded, from a plain file that is checked before it is opened."""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from types import TracebackType
from typing import Protocol

from modelprobe.errors import BadInput, ProbeError
from modelprobe.report.units import size as bytes_text


class ByteSource(Protocol):
    """Bytes by position. `read` gives fewer bytes only at the end; `origin` is the file position of byte 0, if any."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def origin(self) -> int | None: ...
    def read(self, offset: int, length: int) -> bytes: ...


class FileSource:
    """A local regular file, read with positional reads: a file that shrinks meanwhile is an error, not a crash."""

    def __init__(self, path: str | Path) -> None:
        self.name = os.fspath(path)
        self.origin: int | None = 0
        check_regular(self.name)
        try:
            # NONBLOCK: had the file been swapped for a FIFO since the check, opening must still not hang.
            flags = (
                os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            )
            self._fd = os.open(self.name, flags)
        except OSError as error:
            raise unreadable(self.name, error) from None
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise BadInput(f"{self.name} is not a regular file")
        self.size = found.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file."""
        length = min(length, self.size - offset)
        if length <= 0 or offset < 0:
            return b""
        try:
            data = self._read_at(offset, length)
        except OSError as error:
            raise unreadable(self.name, error) from None
        if len(data) < length:
            raise BadInput(
                f"{self.name} became shorter while it was read", "wait until nothing writes to it, then try again"
            )
        return data

    def _read_at(self, offset: int, length: int) -> bytes:
        if not hasattr(os, "pread"):  # Windows
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, length)
        data = os.pread(self._fd, length, offset)
        while len(data) < length:  # a single read stops short of 2 GiB, and at a signal
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Span:
    """A part of another source, as if it were a file of its own."""

    def __init__(self, source: ByteSource, start: int, size: int, name: str = "") -> None:
        self.name = name or source.name
        self.size = max(0, min(size, source.size - start))
        self.origin = None if source.origin is None else source.origin + start
        self._source = source
        self._start = start

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` of the part."""
        length = min(length, self.size - offset)
        return self._source.read(self._start + offset, length) if length > 0 and offset >= 0 else b""


class Inflated:
    """A deflated part of a source, inflated as it is read onward; going back is not possible.

    At most `bound` bytes are ever inflated, so a bomb costs no more than that, and never more than `chunk` at a time.
    """

    chunk = 1 << 16

    def __init__(self, source: ByteSource, start: int, packed: int, size: int, bound: int) -> None:
        self.name = source.name
        self.size = size
        self.origin: int | None = None
        self._source = source
        self._next = start
        self._end = start + packed
        self._bound = bound
        self._inflater = zlib.decompressobj(-15)
        self._kept = b""
        self._kept_at = 0

    @property
    def reached(self) -> int:
        """The first byte that can still be read."""
        return self._kept_at

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, which may not lie before what was dropped already."""
        if offset < self._kept_at:
            raise BadInput(f"{self.name}: a compressed part cannot be read backwards")
        while self._kept_at + len(self._kept) < offset:
            self._kept_at += len(self._kept)
            self._kept = self._more()
            if not self._kept:
                return b""
        self._kept = self._kept[offset - self._kept_at :]
        self._kept_at = offset
        parts, have = [self._kept], len(self._kept)
        while have < length:
            data = self._more()
            if not data:
                break
            parts.append(data)
            have += len(data)
        self._kept = b"".join(parts)
        return self._kept[:length]

    def _more(self) -> bytes:
        if self._kept_at + len(self._kept) > self._bound:
            raise BadInput(
                f"{self.name}: a compressed part inflates to more than {bytes_text(self._bound)}",
                "it looks like a decompression bomb; nothing was loaded",
            )
        try:
            while not self._inflater.eof:
                packed = self._inflater.unconsumed_tail
                if not packed and self._next < self._end:
                    packed = self._source.read(self._next, min(self.chunk, self._end - self._next))
                    self._next += len(packed)
                data = self._inflater.decompress(packed, self.chunk)
                if data or not packed:
                    return data
        except zlib.error:
            raise BadInput(f"{self.name}: a compressed part is damaged", "download the file again") from None
        return b""


def check_regular(path: str) -> os.stat_result:
    """Look before opening: opening a FIFO would hang, reading a device would never end."""
    if "\0" in path:
        raise BadInput("a file name cannot hold a NUL character")
    try:
        found = Path(path).stat()
    except OSError as error:
        raise unreadable(path, error) from None
    for test, what in _NOT_FILES:
        if test(found.st_mode):
            raise BadInput(f"{path} is {what}, not a weight file")
    return found


def unreadable(path: str, error: OSError) -> ProbeError:
    """The one line for a file the system does not let us read."""
    hint = "check the spelling" if isinstance(error, FileNotFoundError) else ""
    if isinstance(error, FileNotFoundError) and Path(path).is_symlink():
        hint = "it is a symbolic link whose target does not exist"
    return BadInput(f"cannot read {path}: {(error.strerror or type(error).__name__).lower()}", hint)


_NOT_FILES = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
