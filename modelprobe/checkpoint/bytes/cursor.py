"""Binary fields read one after the other; what is skipped is not read."""

from __future__ import annotations

import struct

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.bytes.zip import AGAIN
from modelprobe.errors import BadInput

WINDOW = 1 << 18
MAX_KEY_BYTES = 1 << 16


class Cursor:
    """Bytes of a source one after the other, with a window; what is skipped is not read."""

    def __init__(self, source: ByteSource, order: str) -> None:
        self.source = source
        self.order = order
        self.at = 0
        self._window = b""
        self._window_at = 0

    def take(self, length: int) -> bytes:
        """The next bytes."""
        begin = self.at - self._window_at
        if begin < 0 or begin + length > len(self._window):
            self._window = self.source.read(self.at, max(length, WINDOW))
            self._window_at, begin = self.at, 0
            if len(self._window) < length:
                raise BadInput(f"{self.source.name} ends within its header", AGAIN)
        self.at += length
        return self._window[begin : begin + length]

    def skip(self, length: int) -> None:
        """Pass over bytes that must be there."""
        if length > self.source.size - self.at:
            raise BadInput(f"{self.source.name} ends within its header", AGAIN)
        self.at += length

    def number(self, letter: str) -> int | float | bool:
        """The next number; `letter` as in `struct`."""
        (value,) = struct.unpack(self.order + letter, self.take(struct.calcsize(self.order + letter)))
        return value  # type: ignore[no-any-return]

    def count(self, letter: str = "Q") -> int:
        """The next whole number."""
        return int(self.number(letter))

    def text(self, bound: int = MAX_KEY_BYTES) -> str:
        """The next string; of a longer one only the length is told."""
        length = self.count()
        if length > bound:
            self.skip(length)
            return f"text of {length:,} bytes"
        return self.take(length).decode("utf-8", "backslashreplace")

    def varint(self) -> int:
        """The next variable-length integer of a protocol buffer."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
        raise BadInput(f"{self.source.name} holds a number that never ends")
