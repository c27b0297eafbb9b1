"""The graph as data: boxes, folding, edges; its edges beside those of torch.export; every format."""

from __future__ import annotations

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
import torch
import torchvision
from torch import nn

from modelprobe import trace
from modelprobe.graph.build import graph_of
from modelprobe.graph.files import content_of, opened_boxes
from modelprobe.graph.graph import ModelGraph
from modelprobe.graph.levels import _rows_by_longest_way, levels_of
from modelprobe.graph.scene import scene_of
from tests.command_line import CommandLine, said
from tests.graph.exported import exported_edges, recorded_edges
from tests.samples import ROOT

SAMPLES = f"{ROOT / 'samples' / 'models.py'}"


@pytest.fixture
def cli(capsys) -> CommandLine:
    return CommandLine(capsys)


class Residual(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x):
        return x + self.inner(x)


class Stack(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual() for _ in range(blocks))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Shared(nn.Module):
    """One layer under two names, called three times; two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = self.one

    def forward(self, left, right):
        return self.one(left) + self.other(right), self.one(right)


def graph_from(model: nn.Module, *inputs: torch.Tensor, **options) -> ModelGraph:
    return graph_of(trace(model, *inputs), **options)


def edge_names(graph: ModelGraph) -> set[tuple[str, str]]:
    names = {node.id: node.name for node in graph.nodes}
    return {(names[edge.source], names[edge.target]) for edge in graph.edges}


def test_equal_blocks_are_one_box_with_the_residual_inside() -> None:
    graph = graph_from(Stack(), torch.zeros(1, 4))
    (block,) = [node for node in graph.nodes if node.cls == "Residual"]
    assert (block.name, block.copies, block.macs) == ("blocks.0-2", 3, 16)
    assert {("input[0]", "add"), ("input[0]", "linear"), ("relu", "add"), ("add", "linear")} <= edge_names(graph)
    assert graph.nodes[0].macs == 3 * 16 + 8
    assert graph.nodes[0].operators == graph.operators == 10


def test_without_folding_every_operator_has_a_box() -> None:
    graph = graph_from(Stack(), torch.zeros(1, 4), fold=False)
    assert sum(node.kind == "operator" for node in graph.nodes) == graph.operators
    assert max(node.copies for node in graph.nodes) == 1
    assert not any(edge.repeats for edge in graph.edges)


def test_a_shared_module_is_a_box_for_each_call() -> None:
    graph = graph_from(Shared(), torch.zeros(1, 4), torch.zeros(1, 4))
    boxes = [node for node in graph.nodes if node.cls == "Linear"]
    assert [node.remark for node in boxes] == [
        "shared under 2 names", "call 2, shared under 2 names", "call 3, shared under 2 names",
    ]  # fmt: skip
    assert [node.name for node in graph.nodes if node.kind in ("input", "output")] == [
        "input[0]", "input[1]", "output[0]", "output[1]",
    ]  # fmt: skip


class Named(nn.Module):
    """A dict of results, one of them in a list, one what was given."""

    def forward(self, image, mask):
        return {"out": image * 2, "aux": [image + mask], "mask": mask}


def test_results_are_called_as_the_model_calls_them() -> None:
    graph = graph_from(Named(), torch.zeros(1, 4), torch.zeros(1, 4))
    assert {(source, target) for source, target in edge_names(graph) if target not in ("mul", "add")} == {
        ("mul", "out"), ("add", "aux[0]"), ("input[1]", "mask"),
    }  # fmt: skip


def test_depth_closes_what_lies_below() -> None:
    graph = graph_from(Stack(), torch.zeros(1, 4), depth=1)
    assert {node.kind for node in graph.nodes[1:]} == {"module", "input", "output"}
    assert edge_names(graph) == {("input[0]", "blocks.0-2"), ("blocks.0-2", "head"), ("head", "output")}


class WritesThroughAView(nn.Module):
    def forward(self, x):
        y = x * 2
        y[:, :1] = x[:, 1:2] + 1
        return y + 1


def test_a_write_through_a_view_reaches_the_reader() -> None:
    graph = graph_from(WritesThroughAView(), torch.zeros(1, 4))
    assert {("mul", "add"), ("copy_", "add")} <= edge_names(graph)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnet18", "timm:test_resnet", "googlenet"])
def test_edges_are_those_of_export(name: str) -> None:
    model, inputs = zoo_model(name)
    assert recorded_edges(model, inputs) == exported_edges(model, inputs)


def zoo_model(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name.startswith("timm:"):
        model = timm.create_model(name.removeprefix("timm:"))
        return model.eval(), torch.zeros(1, *model.default_cfg["input_size"])
    kwargs = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **kwargs).eval(), torch.zeros(1, 3, 224, 224)


@pytest.mark.zoo
def test_edges_of_a_sample_are_those_of_export() -> None:
    edges_equal_those_of_export(6)


@pytest.mark.slow
def test_edges_of_a_hundred_networks_are_those_of_export() -> None:
    edges_equal_those_of_export(100)


def edges_equal_those_of_export(many: int) -> None:
    """Of networks that export takes, without operators that the ledger takes apart (`einsum`)."""
    names = [
        f"timm:{name}" for name in timm.list_models() if not any(w in name for w in ("giant", "huge", "xxl", "_7b"))
    ]
    names += torchvision.models.list_models(module=torchvision.models)
    random.Random(0).shuffle(names)
    compared, different = 0, {}
    for name in names:
        try:
            with torch.device("meta"):
                model, inputs = zoo_model(name)
                expected = exported_edges(model, inputs)
        except Exception:  # noqa: BLE001 - where export does not work there is nothing to compare
            continue
        if any(source == "einsum" or target == "einsum" for source, target in expected):
            continue
        found = recorded_edges(model, inputs)
        compared += 1
        if found != expected:
            different[name] = (dict(expected - found), dict(found - expected))
        if compared == many:
            break
    assert compared == many
    assert different == {}


def draws(graph: ModelGraph) -> None:
    for depth in (1, None):
        opened = opened_boxes(graph, depth) if depth else set(graph.children())
        scene = scene_of(graph, opened if depth is None else {0})
        assert scene.width > 0
        assert scene.boxes
    assert content_of(graph, ".html", None, False)


@pytest.mark.zoo
def test_a_sample_of_both_zoos_draws() -> None:
    names = [f"timm:{name}" for name in timm.list_models()] + torchvision.models.list_models(module=torchvision.models)
    every_name_draws(random.Random(1).sample(names, 25))


@pytest.mark.slow
def test_every_name_of_both_zoos_draws() -> None:
    every_name_draws(
        [f"timm:{name}" for name in timm.list_models()] + torchvision.models.list_models(module=torchvision.models)
    )


def every_name_draws(names: list[str]) -> None:
    from modelprobe.graph.of_target import graph_of_target
    from modelprobe.model.build import TargetRequest

    failed = {}
    for name in names:
        try:
            draws(graph_of_target(TargetRequest(name), False, None, True))
        except Exception as error:  # noqa: BLE001 - all of them are listed
            failed[name] = repr(error)
    assert failed == {}


@pytest.mark.zoo
@pytest.mark.parametrize("across", [False, True])
def test_boxes_do_not_overlap(across: bool) -> None:
    graph = graph_from(zoo_model("googlenet")[0], torch.zeros(1, 3, 224, 224))
    scene = scene_of(graph, set(graph.children()), across)
    parent = {node.id: node.parent for node in graph.nodes}
    of = {box.node.id: box for box in scene.boxes}
    assert len(of) == len(graph.nodes)
    levels: dict[int, list[int]] = {}
    for number in of:
        levels.setdefault(parent[number], []).append(number)
        if parent[number] >= 0:
            inner, outer = of[number], of[parent[number]]
            assert outer.x <= inner.x
            assert inner.x + inner.width <= outer.x + outer.width + 1e-6
            assert outer.y <= inner.y
            assert inner.y + inner.height <= outer.y + outer.height + 1e-6
    for siblings in levels.values():
        for one in siblings:
            for other in siblings:
                if one < other:
                    a, b = of[one], of[other]
                    apart = a.x + a.width <= b.x + 1e-6 or b.x + b.width <= a.x + 1e-6
                    assert apart or a.y + a.height <= b.y + 1e-6 or b.y + b.height <= a.y + 1e-6


def test_rows_without_the_layout_library() -> None:
    # 0 -> 1 -> 2 and 0 -> 2: the longest way decides
    rows, lines = _rows_by_longest_way(((0, 1), (1, 2), (0, 2)), 3)
    assert [[number for number, _ in row] for row in rows] == [[0], [1], [2]]
    assert lines == [(0, 1), (1, 2), (0, 2)]


def test_every_edge_of_a_level_is_a_line() -> None:
    graph = graph_from(Stack(), torch.zeros(1, 4))
    for level in levels_of(graph).values():
        placed = {item for row in level.rows for item, _ in row}
        assert all(item in placed for line in level.lines for item in line.items)


def test_many_operators_are_drawn_closed_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelprobe.graph.build.MOST_NODES", 8)
    graph = graph_from(Stack(), torch.zeros(1, 4))
    assert len(graph.nodes) <= 8 + 2
    assert any("drawn closed" in note.text for note in graph.notes)


def test_a_long_row_of_equal_layers_folds() -> None:
    graph = graph_from(nn.Sequential(*(nn.ReLU() for _ in range(100))), torch.zeros(1, 4))
    assert [node.copies for node in graph.nodes if node.cls == "ReLU"] == [100]


@pytest.mark.parametrize("suffix", ["html", "svg", "png", "dot", "mmd", "json"])
def test_formats(cli: CommandLine, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"m.{suffix}"
    assert cli("graph", f"{SAMPLES}:TinyCNN", "-o", str(out)).code == 0
    data = out.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
    elif suffix == "svg":
        ElementTree.fromstring(data)
    elif suffix == "json":
        assert json.loads(data)["schema"] == "modelprobe.graph/1"
    else:
        assert {"html": b"<!doctype", "dot": b"digraph", "mmd": b"flowchart TB"}[suffix] in data
    assert b"features" in data or suffix == "png"


def test_an_unknown_suffix_is_refused_before_anything_runs(cli: CommandLine) -> None:
    answer = cli("graph", "no_such_model", "-o", "m.pdf")
    assert answer.code == 2
    assert "'m.pdf' names no format of a graph" in said(answer)


@pytest.mark.zoo
def test_a_trace_file_is_a_target(cli: CommandLine, tmp_path: Path) -> None:
    run = tmp_path / "run.mptrace"
    assert cli("trace", f"{SAMPLES}:TinyCNN", "-o", str(run)).code == 0
    kept = json.loads(cli("graph", str(run), "-f", "json").out)
    fresh = json.loads(cli("graph", f"{SAMPLES}:TinyCNN", "-f", "json").out)
    assert kept["edges"] == fresh["edges"]
