"""Names that hold markup, quotes and control characters stay text in every format."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from modelprobe import trace
from modelprobe.graph.build import graph_of
from modelprobe.graph.files import content_of

HOSTILE = (
    "</script><script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "'\"];\nclick n1 call()",
    "\x1b[31m\x00\u202ered",
)


def hostile_graph():
    return graph_of(trace(hostile_model(), torch.zeros(1, 2)))


def hostile_model():
    model = nn.Sequential()
    for at, name in enumerate(HOSTILE):
        cls = type(name.replace("\x00", ""), (nn.ReLU,), {})
        model._modules[name + str(at)] = cls()
    return model


@pytest.mark.parametrize("suffix", [".html", ".svg", ".dot", ".mmd"])
def test_names_are_text(suffix: str) -> None:
    text = content_of(hostile_graph(), suffix, None, False)
    assert isinstance(text, str)
    for bad in ("<script>window", "<img", "\x1b", "\x00", "\u202e", "\nclick"):
        assert bad not in text or (suffix == ".dot" and bad.startswith("<"))  # quoted, and no markup there
    if suffix == ".svg":
        ElementTree.fromstring(text)
    if suffix == ".html":
        assert text.count("</script>") == 2
        assert "default-src 'none'" in text
