"""`compare`: totals, kinds and aligned trees; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import SAMPLES, CommandLine, said

CNN, ATTENTION = f"{SAMPLES}:TinyCNN", f"{SAMPLES}:TinyAttention"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.mark.zoo
def test_totals_are_those_of_flops(cli: CommandLine) -> None:
    found = json.loads(cli("compare", "resnet18", "resnet34", "-f", "json").out)
    for model in found["models"]:
        flops = json.loads(cli("flops", model["target"], "-f", "json").out)
        assert all(model[key] == flops[key] for key in ("parameters", "macs", "flops", "activations"))
        assert sum(model["kinds"].values()) == model["macs"]
    assert [model["layers"] for model in found["models"]] == [21, 37]  # 17 + 3 shortcuts + fc; 33 + 3 + fc
    assert [model["top1"] for model in found["models"]] == [69.758, 73.314]


def test_trees_are_aligned(cli: CommandLine) -> None:
    found = json.loads(cli("compare", "resnet18", "resnet34", "--by", "layer", "--depth", "2", "-f", "json").out)
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["layer1.2"]["change"] == "only in B"
    assert (layers["conv1"]["change"], layers["layer1"]["change"]) == ("same", "changed")
    assert layers["layer4.0"]["macs"][0] == layers["layer4.0"]["macs"][1]
    for side in (0, 1):
        top = [layer["macs"][side] or 0 for layer in found["layers"] if layer["depth"] == 1]
        assert sum(top) == found["models"][side]["macs"]


@pytest.mark.zoo
def test_a_plot(cli: CommandLine, tmp_path: Path) -> None:
    place = tmp_path / "bars.png"
    assert cli("compare", CNN, ATTENTION, "--plot", str(place)).code == 0
    assert place.read_bytes().startswith(b"\x89PNG")
    assert "exists" in said(cli("compare", CNN, ATTENTION, "--plot", str(place)))


def test_what_is_refused(cli: CommandLine) -> None:
    assert "compare needs two targets" in said(cli("compare", CNN))
    assert "--by layer aligns two models" in said(cli("compare", CNN, CNN, CNN, "--by", "layer"))
    assert "--depth is for --by layer" in said(cli("compare", CNN, CNN, "--depth", "1"))
