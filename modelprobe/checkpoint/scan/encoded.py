"""Texts that stand for bytes (base64, base85, base32, hex, lists of numbers), found by their letters."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

from modelprobe.checkpoint.bytes.source import ByteSource

SEARCH_BYTES = 1 << 20
MAX_DECODED_TEXTS = 20_000
"""Texts of one pickle that are decoded."""

MAX_BASE85 = 1 << 20
"""Letters of one text in base85 that are decoded, which Python does slowly."""

PREFIX_LETTERS = 40

_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_OPENING = re.compile(
    rb"\x80[\x02-\x05]|\(?c[A-Za-z_][\w.]*\n|\([SVX]|PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|x[\x01\x5e\x9c\xda]|[\x21-\x75]{24}"
)
"""How a pickle, what holds one, or a text that is encoded again may begin."""


class Memory:
    """Bytes that were inflated or decoded, as a source; they have no place in a file."""

    def __init__(self, data: bytes | bytearray, name: str) -> None:
        self.name = name
        self.size = len(data)
        self.origin: int | None = None
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        return bytes(memoryview(self._data)[offset : offset + length]) if offset >= 0 < length else b""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a text stands for, where it begins, and the encoding that was undone."""

    place: int
    data: bytes
    how: str


Attempts = Iterator[tuple[int, bytes]]
"""Letters that were skipped, and what the others stand for."""


def _base64(letters: bytes) -> Attempts:
    """The length in front of a short text may look like one more letter or two: all three beginnings are given."""
    letters = letters.translate(_STANDARD_ALPHABET, b"\r\n")
    for skip in range(3):
        raw = letters[skip : len(letters) - (len(letters) - skip) % 4]
        if len(raw) >= 16:
            yield skip, binascii.a2b_base64(raw)


def _base32(letters: bytes) -> Attempts:
    letters = letters.rstrip(b"=")
    for skip in range(3):
        raw = letters[skip:]
        if len(raw) % 8 in (1, 3, 6):  # no number of bytes has so many letters
            raw = raw[:-1]
        yield skip, base64.b32decode(raw + b"=" * (-len(raw) % 8))


def _base85(decode: Callable[[bytes], bytes]) -> Callable[[bytes], Attempts]:
    """Tried at five beginnings by a few letters, and decoded where those may begin something."""

    def attempts(letters: bytes) -> Attempts:
        for skip in range(5):
            try:
                if _OPENING.match(decode(letters[skip : skip + PREFIX_LETTERS])):
                    yield skip, decode(letters[skip : skip + MAX_BASE85])
            except ValueError:  # five letters that are more than four bytes can be
                continue

    return attempts


def _hex(letters: bytes) -> Attempts:
    """What stands before the digits may look like some more of them."""
    digits = re.sub(rb"\\x|0x|[^0-9a-fA-F]", b"", letters)
    for skip in range(8):
        raw = digits[skip:]
        if _OPENING.match(binascii.unhexlify(raw[: PREFIX_LETTERS * 2][: len(raw) // 2 * 2])):
            yield skip, binascii.unhexlify(raw[: len(raw) // 2 * 2])


def _decimals(letters: bytes) -> Attempts:
    values = [int(digits) for digits in re.findall(rb"\d{1,4}", letters)]
    if len(values) >= 24 and max(values) < 256:
        yield 0, bytes(values)


ENCODINGS: tuple[tuple[str, re.Pattern[bytes], Callable[[bytes], Attempts]], ...] = (
    ("base64", re.compile(rb"[A-Za-z0-9+/_-]{20,}(?:[\r\n]+[A-Za-z0-9+/_-]{4,})*={0,2}"), _base64),
    ("base32", re.compile(rb"[A-Z2-7]{32,}={0,6}"), _base32),
    ("hex", re.compile(rb"[0-9a-fA-F\\][0-9a-fA-FxX\\\s,:;]{31,}"), _hex),
    ("numbers", re.compile(rb"\d[\d\s,;]{48,}"), _decimals),
    ("base85", re.compile(rb"[0-9A-Za-z!#$%&()*+\-;<=>?@^_`{|}~]{30,}"), _base85(base64.b85decode)),
    ("ascii85", re.compile(rb"[!-uz]{30,}(?:[\r\n]+[!-uz]{2,})*"), _base85(lambda raw: base64.a85decode(_whole(raw)))),
)
"""Name, the letters that it is found by, and how it is undone."""


LETTERS_WITHIN = {
    how: b"=" + bytes(c for c in range(256) if letters.fullmatch(b"2" * 40 + bytes([c] * 8) + b"2" * 40))
    for how, letters, _ in ENCODINGS
}
"""The letters that a text of each encoding may hold."""


def _whole(letters: bytes) -> bytes:
    """Without what the end may lack: `a85decode` takes no single last letter."""
    return letters[:-1] if len(letters) % 5 == 1 else letters


def _unfinished(encoding: tuple[str, re.Pattern[bytes], object], window: bytes) -> int:
    """Where the text begins that reaches the end of a window; 0 where none does, or nothing stands before it."""
    last = 0
    for match in encoding[1].finditer(window, len(window.rstrip(LETTERS_WITHIN[encoding[0]]))):
        last = match.start() if match.end() == len(window) else 0
    return last


def decoded(feed: ByteSource, start: int, stop: int) -> Iterator[Decoded]:
    """What every encoded text between two places stands for; a text may be taken for more than one encoding."""
    at, count = start, 0
    while at < stop and count < MAX_DECODED_TEXTS:
        window = feed.read(at, min(SEARCH_BYTES, stop - at))
        if not window:
            return
        step, more = len(window), at + len(window) < stop
        if more:  # what goes on in the next window is read there
            step = min((start for start in map(_unfinished, ENCODINGS, repeat(window)) if start), default=step)
        for how, letters, undo in ENCODINGS:
            for match in letters.finditer(window):
                if match.start() >= step:
                    break
                count += 1
                if count > MAX_DECODED_TEXTS:
                    return
                yield from (Decoded(at + match.start() + skip, data, how) for skip, data in undo(match[0]))
        at += step
