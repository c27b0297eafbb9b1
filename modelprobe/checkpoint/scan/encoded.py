"""Texts of a pickle that hold a pickle in base64, found by their letters whatever opcode holds them."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from modelprobe.checkpoint.bytes.source import ByteSource

SEARCH_BYTES = 4 << 20
MAX_DECODED_TEXTS = 20_000
"""Texts of one pickle that are decoded."""

_RUN = re.compile(rb"[A-Za-z0-9+/_-]{20,}(?:[\r\n]+[A-Za-z0-9+/_-]{4,})*={0,2}")
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


class Memory:
    """Bytes that were inflated or decoded, as a source; they have no place in a file."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.size = len(data)
        self.origin: int | None = None
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        return self._data[offset : offset + length] if offset >= 0 < length else b""


def decoded(feed: ByteSource, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """What every run of base64 letters between two places stands for, with its place.

    The length in front of a short text may look like one more letter or two: all three beginnings are given.
    """
    at, count = start, 0
    while at < stop and count < MAX_DECODED_TEXTS:
        window = feed.read(at, min(SEARCH_BYTES, stop - at))
        if not window:
            return
        step = len(window)
        for match in _RUN.finditer(window):
            if match.end() == len(window) and match.start() and at + len(window) < stop:
                step = match.start()  # it goes on in the next window
                break
            letters = match[0].translate(_STANDARD_ALPHABET, b"\r\n")
            count += 1
            for skip in range(3):
                raw = letters[skip : len(letters) - (len(letters) - skip) % 4]
                if len(raw) >= 16:
                    yield at + match.start() + skip, binascii.a2b_base64(raw)
        at += step
