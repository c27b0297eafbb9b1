"""`training` on the command line: what a person reads, what a program gets, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.command_line import SAMPLES, CommandLine, said
from tests.tracing.by_hand import TORCH

CNN = f"{SAMPLES}:TinyCNN"
SMALL = ("training", CNN, "--input", "32")

# TinyCNN on 1x3x32x32, as in test_commands: two convolutions and a head.
FIRST, SECOND, HEAD = 221_184, 294_912, 160


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


@pytest.mark.skipif(TORCH < (2, 13), reason="older releases run a few more operators that move data")
@pytest.mark.parametrize("width", [80, 160])
def test_what_a_person_reads(cli, golden, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    answer = cli(*SMALL, "--freeze", "features.1", "--optimizer", "adamw")
    assert (answer.code, answer.err) == (0, "")
    assert max(map(len, answer.out.splitlines())) <= width
    golden(f"training.TinyCNN.{width}.txt", answer.out)


def test_what_a_program_gets(cli):
    answer = cli(*SMALL, "-f", "json")
    found = json.loads(answer.out)
    assert (answer.code, found["schema"], found["env"]["mode"]) == (0, "modelprobe.flops-train/1", "train")
    assert found["forward"]["macs"] == FIRST + SECOND + HEAD
    assert found["weight_gradients"]["macs"] == FIRST + SECOND + HEAD
    assert found["input_gradients"]["macs"] == SECOND + HEAD
    assert found["optimizer"]["flops"] == 2 * found["parameters"]
    rows = list(csv.DictReader(io.StringIO(cli(*SMALL, "-f", "csv", "--depth", "1").out)))
    assert [row["module"] for row in rows] == ["TinyCNN", "features", "head"]
    assert (rows[2]["forward"], rows[2]["input"], rows[2]["weight"]) == ("160", "160", "160")


@pytest.mark.parametrize("format", ["markdown", "html"])
@pytest.mark.parametrize("more", [("--by", "operator"), ("--by", "kind"), ("--top", "3")])
def test_every_table_in_every_format(cli, format, more):
    answer = cli(*SMALL, "-f", format, *more)
    assert (answer.code, answer.err) == (0, "")


@pytest.mark.zoo
def test_a_batch_of_two_where_batch_norm_needs_one(cli, tmp_path: Path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8))\n"
    )
    net = f"{tmp_path / 'net.py'}:Net"
    answer = cli("training", net, "-f", "json")
    found = json.loads(answer.out)
    # The default is one example, which batch norm refuses: 2 x 4 x 8.
    assert found["forward"]["macs"] == 64
    assert any(note["level"] == "assumed" and "batch of 2" in note["text"] for note in found["notes"])
    assert cli("training", net, "--strict").code == 3
    refused = cli("training", net, "--batch", "1")
    assert refused.code == 4
    assert "a batch of two or more: --batch 2" in said(refused)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--convention", "thop"), "no such option: --convention"),
        (("--by", "call"), "--by 'call' is not known | choose one of module, operator, kind"),
        (("--optimizer", "lion"), "--optimizer 'lion' is not known | choose one of sgd, sgd-momentum, adam"),
        (("--freeze", "featurs"), "the pattern 'featurs' matches no module and no parameter | nearest: features"),
        (("--freeze", "features,head"), "every parameter is frozen"),
    ],
)
def test_what_is_refused(cli, arguments, message):
    answer = cli("training", CNN, *arguments)
    assert answer.code == 2
    assert message in said(answer)


def test_targets_of_detectors_are_made_up_and_said():
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    from modelprobe.model.inputs.example import ExampleInputs
    from modelprobe.model.inputs.spec import parse_input
    from modelprobe.model.inputs.training_targets import with_targets

    with torch.device("meta"):
        detector = torchvision.models.get_model("keypointrcnn_resnet50_fpn", weights=None, weights_backbone=None)
        classifier = torchvision.models.get_model("resnet18")
    images = ExampleInputs(([parse_input("3x64x80")],), names=("images",))
    assert with_targets(classifier, images) is images
    completed = with_targets(detector, images)
    ((_, (target,)),) = [completed.args]
    assert target["boxes"].tolist() == [[20, 16, 60, 48]]  # a quarter of 64 x 80, in its middle
    assert target["labels"].tolist() == [1]
    assert target["keypoints"].shape == (1, 17, 3)
    assert "masks" not in target
    assert "one box of class 1 per image" in completed.notes[-1].text
