"""What texts could make a loader run: templates, configurations that name something to import, layers of Keras."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.scan.configs import configured
from modelprobe.checkpoint.scan.templates import template_findings

SEARCHED = 64 << 20
"""Bytes of a file that are searched."""

SEARCH_WINDOW = 4 << 20
ESCAPED_WINDOW = 1 << 20
OVERLAP = 256 << 10
"""Bytes of the next window that are read with one: a template may be as long."""

PICKLE = re.compile(rb"\x80[\x02-\x05]|c[A-Za-z_][\w.]{0,80}\n[A-Za-z_][\w.]{0,80}\n")
"""Where a pickle may begin, or name what it imports."""

_ESCAPED_BYTE = re.compile(rb'\\(?:(?:u00|x)([0-9a-fA-F]{2})|([nrt"\\]))')
_NAMED_BYTES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b'"': b'"', b"\\": b"\\"}

MOST_PLACES = 20_000
NEVER_LOADED = (".md", ".rst", ".html", ".htm", "vocab.txt", "merges.txt")
"""Texts for readers, which may show what is dangerous, and lists of tokens, which no loader takes for a template."""


def in_text(source: ByteSource, name: str = "") -> Iterator[tuple[Trust, str]]:
    """Remarks on templates and on configurations, in a text or in what stands before a file's numbers."""
    if name.endswith(NEVER_LOADED):
        return
    said: set[str] = set()
    for window in _search_parts(source):
        for found in _of_window(window):
            if found[1] not in said:
                said.add(found[1])
                yield found


def _of_window(window: bytes) -> Iterator[tuple[Trust, str]]:
    if b"{{" in window or b"{%" in window:
        yield from template_findings(window.decode("utf-8", "surrogateescape"))
    yield from configured(window)


def unescaped_parts(source: ByteSource, start: int, stop: int) -> Iterator[bytes]:
    """The bytes that a text stands for letter by letter (`\\n`, `\\x80`, `\\u0080`), a part at a time."""
    for at in range(start, stop, ESCAPED_WINDOW):
        text = source.read(at, min(stop - at, ESCAPED_WINDOW + OVERLAP))
        if b"\\" in text:
            yield _unescaped_bytes(text)


def _unescaped_bytes(text: bytes) -> bytes:
    return _ESCAPED_BYTE.sub(lambda match: bytes([int(match[1], 16)]) if match[1] else _NAMED_BYTES[match[2]], text)


def pickles_in(source: ByteSource) -> Iterator[int]:
    """Places at which a pickle may begin, in a file of another format."""
    yield from islice(_pickle_places(source), MOST_PLACES)


def _pickle_places(source: ByteSource) -> Iterator[int]:
    for at in range(0, min(source.size, SEARCHED), SEARCH_WINDOW):
        window = source.read(at, SEARCH_WINDOW + 256)
        yield from (at + match.start() for match in PICKLE.finditer(window) if match.start() < SEARCH_WINDOW)


def _search_parts(source: ByteSource) -> Iterator[bytes]:
    """The bytes in parts that overlap a little."""
    for at in range(0, min(source.size, SEARCHED), SEARCH_WINDOW):
        yield source.read(at, SEARCH_WINDOW + OVERLAP)
