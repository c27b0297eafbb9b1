"""Colours of a graph from other answers: each box has the figure of its own module, folded ones that of all copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelprobe import trace
from modelprobe.errors import BadInput
from modelprobe.graph.build import graph_of
from modelprobe.graph.graph import ModelGraph
from modelprobe.graph.overlays import differences_between, in_common, overlay_from, pairs_of
from tests.command_line import SAMPLES, CommandLine, said


class Net(nn.Module):
    def __init__(self, blocks: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(blocks)])
        self.head = nn.Linear(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))


def graph(**settings: int) -> ModelGraph:
    return graph_of(trace(Net(**settings), torch.zeros(2, 4)))


def report(place: Path, schema: str, **values: Any) -> Path:
    path = place / "given.json"
    path.write_text(json.dumps({"schema": f"modelprobe.{schema}/1", **values}))
    return path


def by_path(found: ModelGraph, values: tuple[Any, ...], kind: str = "module") -> dict[str, Any]:
    return {node.path: values[node.id] for node in found.nodes if node.kind == kind}


def test_times_are_the_mean_of_the_copies(tmp_path: Path) -> None:
    layers = [
        {"path": path, "calls": calls, "inclusive_s": seconds, "share": seconds / 10}
        for path, calls, seconds in (
            ("", 1, 10.0), ("stem", 2, 1.0), ("blocks", 1, 9.0), ("blocks.0", 1, 1.0), ("blocks.1", 1, 3.0),
            ("blocks.2", 1, 5.0),
        )
    ]  # fmt: skip
    operators = [{"name": "aten.linear", "calls": 4, "seconds": 2.0}]
    drawn = graph()
    overlay = overlay_from(drawn, report(tmp_path, "profile", layers={"layers": layers, "operators": operators}))
    modules = by_path(drawn, overlay.values)
    assert (modules["stem"], modules["blocks.0"], modules["head"]) == (0.5, 3.0, None)
    assert {v for v in by_path(drawn, overlay.values, "operator").values() if v} == {0.5}
    assert by_path(drawn, overlay.texts)["blocks.0"].startswith("3.000 s each")


def test_differences_of_compare(tmp_path: Path) -> None:
    rows = [
        {"name": name, "parameters": p, "macs": m, "change": change}
        for name, p, m, change in (
            ("", [100, 200], [10, 10], "changed"), ("stem", [40, 40], [64, 64], "same"),
            ("blocks.2", [72, None], [1, None], "only in A"), ("head", [72, 72], [128, 128], "changed"),
        )
    ]  # fmt: skip
    drawn = graph()
    overlay = overlay_from(drawn, report(tmp_path, "compare", layers=rows))
    modules, texts = by_path(drawn, overlay.values), by_path(drawn, overlay.texts)
    assert (modules[""], modules["stem"], modules["blocks.0"], modules["head"]) == (0.5, 0.0, 1.0, 0.05)
    assert (texts[""], texts["head"]) == ("parameters 100 | 200", "another class")


def test_the_culprit_of_diverge_and_all_around_it_are_red(tmp_path: Path) -> None:
    drift = [{"path_a": "stem", "largest": 1e-7}, {"path_a": "blocks.1.0", "largest": 1e-3}]
    culprit = {"path_a": "blocks.1.0", "operator": "aten.linear", "reason": "differs in constants"}
    drawn = graph()
    found = report(tmp_path, "divergence", drift=drift, culprit=culprit, others=[])
    overlay = overlay_from(drawn, found)
    modules = by_path(drawn, overlay.values)
    assert overlay.logarithmic
    assert (modules["stem"], modules["blocks.0"], modules["blocks"], modules[""]) == (1e-7, 1.0, 1.0, 1.0)
    assert by_path(drawn, overlay.texts)["blocks"] == "aten.linear differs in constants"


def test_changed_weights(tmp_path: Path) -> None:
    rows = [
        {"name": "stem.weight", "other": "stem.weight", "status": "identical", "values": {"max_rel": 0.0}},
        {"name": "head.bias", "other": "head.bias", "status": "different", "values": {"max_rel": 0.25}},
        {"name": "", "other": "blocks.0.0.weight", "status": "added", "values": None},
    ]
    drawn = graph()
    modules = by_path(drawn, overlay_from(drawn, report(tmp_path, "diff", tensors=rows)).values)
    assert (modules["stem"], modules["head"], modules["blocks"], modules[""]) == (0.0, 0.25, 1.0, 1.0)


@pytest.mark.parametrize(
    ("schema", "values", "says"),
    [
        ("flops", {}, "is no report that colors a graph"),
        ("profile", {"layers": None}, "times are of the whole model"),
        ("compare", {"layers": []}, "comparison is of whole models"),
        ("compare", {"layers": [{"name": "a"}]}, "is damaged: KeyError"),
        ("diff", {"tensors": [{"name": "other.w", "other": "", "status": "removed", "values": 3}]}, "is damaged"),
        ("compare", {"layers": [{"name": "other", "parameters": [1, 1], "macs": [1, 1], "change": "same"}]}, "nothing"),
    ],
)
def test_reports_that_colour_nothing(tmp_path: Path, schema: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        overlay_from(graph(), report(tmp_path, schema, **values))


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    for name, says in (("a.json", "is no JSON"), ("b.json", "cannot be read")):
        with pytest.raises(BadInput, match=says):
            overlay_from(graph(), tmp_path / name)


def test_boxes_at_the_same_place_are_pairs() -> None:
    one, other = graph(), graph(blocks=5, width=3)
    pairs = pairs_of(one, other)
    assert [(one.nodes[a].path, other.nodes[b].path) for a, b in pairs.items() if one.nodes[a].kind == "module"] == [
        (path, path) for path in ("", "stem", "blocks", "blocks.0", "blocks.0.0", "blocks.0.1", "head")
    ]
    overlay = differences_between(one, other, pairs)
    texts = by_path(one, overlay.texts)
    assert (texts["stem"], texts["head"]) == ("the same in both", "MACs 128 | 48, parameters 72 | 27")
    assert texts["blocks.0"] == "copies 3 | 5"
    assert in_common(one, other) > 5


def test_nothing_in_common() -> None:
    one = graph()
    other = graph_of(trace(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8)))
    assert in_common(one, other) == 0
    overlay = differences_between(one, other, pairs_of(one, other))
    assert {value for path, value in by_path(one, overlay.values).items() if path} == {1.0}


@pytest.mark.zoo
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli, net = CommandLine(capsys), f"{SAMPLES}:TinyCNN"
    assert cli("compare", net, f"{SAMPLES}:TinyAttention", "--by", "layer", "-o", "layers.json").code == 0
    assert cli("graph", net, "--overlay", "layers.json", "-o", "one.html").code == 0
    assert "differences" in Path("one.html").read_text()
    two = cli("graph", net, "--beside", f"{SAMPLES}:TinyAttention", "-o", "two.html")
    assert two.code == 0
    assert Path("two.html").read_text().count('class="graph-data"') == 2
    assert "nothing is chosen together" not in cli("graph", net, "--beside", net, "-o", "same.html").err
    assert "are for a page" in said(cli("graph", net, "--beside", net, "-o", "two.svg"))
    assert "are for a page" in said(cli("graph", net, "--overlay", "layers.json"))
