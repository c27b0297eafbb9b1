"""What texts could make a loader run: templates that reach Python's objects, Lambda layers of Keras."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelprobe.checkpoint.bytes.source import ByteSource

SEARCHED = 64 << 20
"""Bytes of a file that are searched."""

SEARCH_WINDOW = 4 << 20

TEMPLATE = re.compile(
    rb"\{[{%][^{}]{0,400}?(__(class|globals|subclasses|import|builtins|init|mro|base|bases|getattribute|dict)__"
    rb"|\|\s*attr\s*\(|\b(os|subprocess|sys)\s*\.\s*(system|popen|environ|modules)|cycler\.|joiner\.|lipsum)"
)
"""A template (jinja's, of chats and prompts) that reaches for Python's own objects."""

LAMBDA = re.compile(rb'"class_name"\s*:\s*"(Lambda|TFOpLambda|SlicingOpLambda)"')


def in_text(source: ByteSource) -> Iterator[str]:
    """Remarks on templates in a text, or in the metadata that stand before the numbers of a file."""
    for window in _search_parts(source):
        found = TEMPLATE.search(window)
        if found is not None:
            shown = found[0][-80:].decode("utf-8", "replace").replace("\n", " ")
            yield f"a template that reaches Python's objects: {shown}"
            return


def in_hdf5(source: ByteSource) -> Iterator[str]:
    """Remarks on the configuration of a Keras model: a Lambda layer is code, which Keras runs when it is loaded."""
    for window in _search_parts(source):
        found = LAMBDA.search(window)
        if found is not None:
            kind = found[1].decode()
            yield (
                "a Lambda layer: code of Keras, which loading runs"
                if kind == "Lambda"
                else f"a {kind} layer of Keras, which names a function that loading calls"
            )
            return


def _search_parts(source: ByteSource) -> Iterator[bytes]:
    """The bytes in parts that overlap a little."""
    for at in range(0, min(source.size, SEARCHED), SEARCH_WINDOW):
        yield source.read(at, SEARCH_WINDOW + 4096)
