"""The graph of a model that fails: what ran, the operator or module that failed, the shapes in flight, one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.sampling import sampled

HERE = Path(__file__).with_name("failing.py")

KINDS = {
    # model: (the box that is marked, the module that it lies in, what it was given)
    "WrongChannels": ("conv2d", "block.1", "1x8x30x30"),
    "WrongFeatures": ("linear", "head", "1x8192"),
    "WrongView": ("view", "", "1x8x32x32"),
    "WrongAdd": ("add", "", "1x8x32x32"),
    "WrongCat": ("cat", "", "1x8x32x32"),
    "WrongDtype": ("linear", "", "1x8"),
    "WrongMatmul": ("matmul", "", "1x8x32x32"),
    "MissingKey": ("its own code", "", "1x3x32x32"),
    "MissingAttribute": ("its own code", "", "1x3x32x32"),
    "NotFinite": ("its own code", "", "1x3x32x32"),
    "OutOfRange": ("its own code", "", "1x3x32x32"),
    "Raises": ("its own code", "", "1x3x32x32"),
    "DivisionByZero": ("its own code", "", "1x3x32x32"),
}


@pytest.mark.parametrize("name", sampled(list(KINDS), 4, pytest.mark.zoo))
def test_what_ran_is_drawn(capsys, name):
    cli = CommandLine(capsys)
    target = (f"{HERE}:{name}", "--input", "3x32x32")
    answer, other = cli("graph", *target, "-f", "json"), cli("flops", *target)
    assert answer.code == other.code == 4
    assert answer.err == other.err
    graph = json.loads(answer.out)
    box, path, given = KINDS[name]
    (failed,) = [node for node in graph["nodes"] if node["kind"] == "failed"]
    assert (failed["name"], failed["path"], failed["inputs"][0]) == (box, path, given)
    assert failed["remark"] == graph["failure"]
    parent = graph["nodes"][failed["parent"]]
    while parent["parent"] >= 0:
        assert parent["remark"].startswith("did not end")
        parent = graph["nodes"][parent["parent"]]
    stem = next(node for node in graph["nodes"] if node["path"] == "stem" and node["kind"] == "module")
    assert stem["outputs"] == ["1x8x32x32"]
    if box != "its own code":
        assert any(edge["target"] == failed["id"] for edge in graph["edges"])


@pytest.mark.parametrize("suffix", [".html", ".svg", ".png", ".dot", ".mmd"])
def test_every_format(capsys, tmp_path, suffix):
    place = tmp_path / f"failed{suffix}"
    answer = CommandLine(capsys)("graph", f"{HERE}:Raises", "--input", "3x32x32", "-o", str(place))
    assert answer.code == 4
    assert place.stat().st_size
    if suffix != ".png":
        assert "<b>" not in place.read_text()
