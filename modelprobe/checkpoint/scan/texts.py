"""What texts could make a loader run: templates that reach Python's objects, Lambda layers of Keras."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice

from modelprobe.checkpoint.bytes.source import ByteSource

SEARCHED = 64 << 20
"""Bytes of a file that are searched."""

SEARCH_WINDOW = 4 << 20

TEMPLATE = re.compile(
    rb"\{[{%][^{}]{0,400}?(__(class|globals|subclasses|import|builtins|init|mro|base|bases|getattribute|dict)__"
    rb"|\|\s*attr\s*\(|\b(os|subprocess|sys)\s*\.\s*(system|popen|environ|modules)|cycler\.|joiner\.|lipsum)"
)
"""A template (jinja's, of chats and prompts) that reaches for Python's own objects."""

LAMBDA = re.compile(rb'"class_name"\s*:\s*"(Lambda|TFOpLambda|SlicingOpLambda|__lambda__)"')
"""Layers and functions of Keras that are code, or name a function that loading calls."""

MODULE = re.compile(rb'"module"\s*:\s*"([A-Za-z_][\w.]*)"[^{}]{0,200}"class_name"\s*:')
"""A class or function that a configuration of Keras 3 has imported."""

PICKLE = re.compile(rb"\x80[\x02-\x05]|c[A-Za-z_][\w.]{0,80}\n[A-Za-z_][\w.]{0,80}\n")
"""Where a pickle may begin, or name what it imports."""

MOST_PLACES = 20_000


def in_text(source: ByteSource) -> Iterator[str]:
    """Remarks on templates and on configurations of Keras, in a text or in what stands before a file's numbers."""
    said: set[str] = set()
    for window in _search_parts(source):
        for text in (*_templates(window), *_keras_layers(window)):
            if text not in said:
                said.add(text)
                yield text


def _templates(window: bytes) -> Iterator[str]:
    found = TEMPLATE.search(window)
    if found is not None:
        shown = found[0][-80:].decode("utf-8", "replace").replace("\n", " ")
        yield f"a template that reaches Python's objects: {shown}"


def _keras_layers(window: bytes) -> Iterator[str]:
    """A Lambda layer is code, which Keras runs when it is loaded; a module is imported."""
    found = LAMBDA.search(window)
    if found is not None:
        yield f"{found[1].decode()} of Keras: code, or the name of a function, that loading runs"
    for named in MODULE.finditer(window):
        top = named[1].decode().partition(".")[0]
        if top in sys.stdlib_module_names:
            yield f"a configuration of Keras that imports {named[1].decode()}"


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
        yield source.read(at, SEARCH_WINDOW + 4096)
