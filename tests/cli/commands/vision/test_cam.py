"""`cam` and `attention` on the command line: what they print, what they write, and everything they refuse."""

import errno
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from modelprobe.files.directory import Folder
from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import ROOT

PICTURE = str(ROOT / "samples" / "digit_a.png")
CNN = (f"{SAMPLES}:DigitCNN", "--weights", str(ROOT / "samples" / "digit_cnn.pth"), "--image", PICTURE)
VIT = (f"{SAMPLES}:DigitViT", "--image", PICTURE)

ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    default_cfg = {"input_size": (1, 64, 64), "mean": (0.0,), "std": (1.0,), "crop_pct": 1.0,
                   "label_names": ["gray cat", "black cat", "dog"]}

    def __init__(self):
        super().__init__()
        self.conv, self.never, self.talk, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), Talk(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x)
        self.talk(x)
        return self.head(x.mean((2, 3)))

class Talk(nn.Module):
    def forward(self, x):
        return "nothing"

class Segments(Odd):
    def forward(self, x):
        return {"out": self.conv(x)}

class Volumes(Odd):
    def forward(self, x):
        return {"out": self.conv(x)[..., None]}
"""


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


@pytest.fixture
def odd(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    return f"{tmp_path / 'odd.py'}:Odd"


@pytest.mark.zoo
def test_cam_writes_what_it_says(cli, tmp_path):
    out = tmp_path / "maps"
    methods = "gradcam,layercam"
    answer = cli("cam", *CNN, "-c", "3", "-c", "8", "--method", methods, "-o", str(out), "-f", "json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)["data"] if "data" in json.loads(answer.out) else json.loads(answer.out)
    assert found["layer"] == "features"
    assert "through which everything passes" in found["reason"]
    assert found["weights"]["kind"] == "file"
    assert [(e["target"], e["method"]) for e in found["entries"]] == [
        (3, "gradcam"), (3, "layercam"), (8, "gradcam"), (8, "layercam")
    ]  # fmt: skip
    for entry in found["entries"]:
        arrays = np.load(out / entry["arrays"])
        values = arrays[entry["array"]]
        assert values.shape == (64, 64)
        assert arrays[f"{entry['array']}.raw"].shape == (16, 16)
        row, column = entry["peak"]
        assert values[row, column] == values.max()
        for name in (entry["heat"], entry["overlay"]):
            assert Image.open(out / name).width > 400
    assert Image.open(out / "digit_a" / "compare.png").width > 900
    page = (out / "index.html").read_text()
    assert len(set(re.findall(r'<img src="([^"]+)"', page))) == 10  # what is seen, all maps, four and their overlays
    assert all((out / name).is_file() for name in re.findall(r'<img src="([^"]+)"', page))
    assert all(f'id="{name}"' in page for name in re.findall(r'<a (?:class="zoom" id="[^"]+" )?href="#([^"]+)"', page))
    assert json.loads((out / "report.json").read_text()) == json.loads(answer.out)


@pytest.mark.zoo
def test_attention_writes_what_it_says(cli, tmp_path):
    out = tmp_path / "attention"
    answer = cli("attention", *VIT, "--rollout", "--blocks", "0", "--heads", "1,mean", "--query", "2,5", "-o", str(out),
                 "-f", "json")  # fmt: skip
    assert answer.code == 0
    report = json.loads(answer.out)
    found = report.get("data", report)
    assert [(e["block"], e["head"]) for e in found["entries"]] == [
        ("rollout", "rollout"), ("blocks.0", "mean"), ("blocks.0", "1")
    ]  # fmt: skip
    arrays = np.load(out / "digit_a" / "maps.npz")
    assert sorted(arrays) == ["blocks.0.1", "blocks.0.mean", "rollout"]
    assert all(values.shape == (8, 8) for values in arrays.values())
    assert found["weights"]["trained"] is None
    assert {entry["figure"] for entry in found["entries"]} == {
        "digit_a/blocks.0.mean.png", "digit_a/blocks.0.heads.png", "digit_a/rollout.png"
    }  # fmt: skip
    assert all((out / entry["figure"]).is_file() for entry in found["entries"])


def test_what_a_person_reads(cli):
    answer = cli("cam", *CNN)
    assert answer.code == 0
    assert re.search(r"^Layer +features$", answer.out, re.MULTILINE)
    assert "Nothing was drawn: -o DIR" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    answer = cli("attention", *VIT, "--list")
    assert [line.split()[:3] for line in answer.out.splitlines() if "blocks." in line] == [
        ["0", "blocks.0", "4"], ["1", "blocks.1", "4"]
    ]  # fmt: skip


@pytest.mark.zoo
def test_random_weights_are_said(cli):
    answer = cli("cam", f"{SAMPLES}:DigitCNN", "--image", PICTURE, "--strict")
    assert answer.code == 3
    assert "whether they are trained" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "10"), "there is no class 10 | `modelprobe predict`"),
        (("-c", "eleven"), "eleven"),
        (("-m", "gradcan"), "there is no method 'gradcan' | did you mean gradcam"),
        (("--layers", "feature.3"), "there is no layer 'feature.3' | did you mean features.3"),
        (("--layers", "head"), "the layer head puts out 1x10, which is no grid of places"),
        (("--cmap", "viridisch"), "there is no color map 'viridisch' | did you mean viridis"),
    ],
)
def test_cam_refuses(cli, arguments, message):
    answer = cli("cam", *CNN, *arguments)
    assert answer.code == 2
    assert message in said(answer)


@pytest.mark.zoo
def test_odd_layers_and_labels(cli, odd):
    def refusal(*arguments):
        answer = cli("cam", odd, "--image", PICTURE, *arguments)
        assert answer.code == 2
        return said(answer)

    assert "the layer never never ran" in refusal("--layers", "never")
    assert "the layer talk puts out str, no tensor" in refusal("--layers", "talk")
    several = refusal("-c", "cat")
    assert "gray cat" in several
    assert "black cat" in several
    answer = cli("cam", odd, "--image", PICTURE, "-c", "black cat", "-f", "csv")
    assert "black cat,1," in answer.out


def test_what_is_no_classifier(cli, odd):
    answer = cli("cam", odd.replace(":Odd", ":Volumes"), "--image", PICTURE)
    assert answer.code == 2
    assert "Volumes is no classifier: it puts out a dict of out" in said(answer)


@pytest.mark.zoo
def test_options_of_scores(cli, odd, tmp_path):
    target = odd.replace(":Odd", ":Segments")
    answer = cli("cam", target, "--image", PICTURE, "--at", "3,4", "--class", "1", "--class", "-1", "-f", "json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert [(one["target"], one["against"], one["label"]) for one in found["entries"]] == [
        (1, False, "class 1"),
        (1, True, "not class 1"),
    ]
    assert found["scores"].startswith("of the output out: logits of each place")
    black = tmp_path / "black.png"
    Image.new("L", (64, 64)).save(black)
    for arguments, message in (
        (("--at", "3"), "--at '3' is no place | for example --at 120,80"),
        (("--at", "999,3"), "--at 999,3 lies outside"),
        (("--at", "3,4", "--mask", str(black)), "--at and --mask both name places"),
        (("--mask", str(black)), "has no white pixel"),
        (("--scores", "tanh"), "--scores 'tanh' is not known"),
        (("--output-name", "depth"), "there is no output 'depth'"),
        (("--class", "-99"), "there is no class 99"),
        (("--device", "meta"), "--device meta computes nothing"),
        (("--device", "cuda:7"), "--device cuda:7 cannot be used"),
        (("--input", "4x64x64"), "has 4 channels, and the model takes"),
        (("--input", "2x1x64x64"), "--input 2x1x64x64 is a batch of 2"),
    ):
        answer = cli("cam", target, "--image", PICTURE, *arguments)
        assert answer.code == 2, answer
        assert message in said(answer)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--blocks", "7"), "there is no block 7: the model has 2"),
        (("--blocks", "block.1"), "no attention ran in 'block.1' | did you mean blocks.1"),
        (("--heads", "4"), "blocks.1 has 4 heads, 0 to 3: there is no 4"),
        (("--heads", "first"), "--heads 'first' names no heads"),
        (("--query", "8,8"), "8 rows and 8 columns of patches: there is no 8,8"),
        (("--query", "middle"), "is no query"),
    ],
)
def test_attention_refuses(cli, arguments, message):
    answer = cli("attention", *VIT, *arguments)
    assert answer.code == 2
    assert message in said(answer)


@pytest.mark.zoo
def test_a_network_without_attention(cli):
    answer = cli("attention", *CNN)
    assert answer.code == 2
    assert "DigitCNN has no attention over places" in said(answer)


@pytest.mark.zoo
@pytest.mark.parametrize("command", [("cam", *CNN), ("attention", *VIT)], ids=["cam", "attention"])
def test_output_directories(cli, tmp_path, command):
    held = tmp_path / "held"
    held.mkdir()
    (held / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    for place, message in (("held", "exists and holds another file, mine.txt"), ("file", "is a file"),
                           ("file/maps", "cannot")):  # fmt: skip
        answer = cli(*command, "-o", str(tmp_path / place))
        assert answer.code == 2
        assert message in said(answer)
    assert cli(*command, "-o", str(tmp_path / "made" / "for" / "it")).code == 0
    shutil.rmtree(tmp_path / "made")
    answer = cli(*command, "-o", str(held), "--force")
    assert answer.code == 0
    assert (held / "mine.txt").read_text() == "mine"
    assert (held / "index.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "held"]


@pytest.mark.parametrize("command", [("cam", *CNN), ("attention", *VIT)], ids=["cam", "attention"])
def test_a_full_disk_leaves_nothing(cli, tmp_path, monkeypatch, command):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modelprobe.files.atomic.os.fsync", full)
    answer = cli(*command, "-o", str(tmp_path / "maps"))
    assert answer.code == 2
    assert "no space left on device" in said(answer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.zoo
def test_pictures_of_the_same_name(cli, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(PICTURE, tmp_path / folder / "one.png")
    pictures = ("--image", str(tmp_path / "a" / "one.png"), "--image", str(tmp_path / "b" / "one.png"))
    answer = cli("cam", *CNN[:3], *pictures, "-o", str(tmp_path / "maps"))
    assert answer.code == 0
    names = sorted(path.parent.name for path in (tmp_path / "maps").rglob("*.npz"))
    assert names == ["one", "one-2"]


@pytest.mark.zoo
@pytest.mark.parametrize("command", [("cam", *CNN), ("attention", *VIT)], ids=["cam", "attention"])
def test_one_bad_picture_of_several_is_told(cli, tmp_path, command):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    answer = cli(*command, "--image", str(bad), "-o", str(tmp_path / "maps"))
    assert answer.code == 0
    assert f"1imagewasleftout:{bad}isempty" in "".join(
        answer.out.split()
    )  # however long the path, and so broken into lines
    assert (tmp_path / "maps" / "digit_a" / "maps.npz").exists()
    alone = [word for word in command if word not in ("--image", PICTURE)]
    answer = cli(*alone, "--image", str(bad), "-o", str(tmp_path / "none"))
    assert answer.code == 2
    assert "is empty" in said(answer)
    assert not (tmp_path / "none").exists()


@pytest.mark.zoo
@pytest.mark.parametrize("command", [("cam", *CNN), ("attention", *VIT)], ids=["cam", "attention"])
def test_an_interrupted_run_is_gone_on_with(cli, tmp_path, monkeypatch, command):
    names = []
    for number in range(3):
        names += ["--image", str(tmp_path / f"{number}.png")]
        Image.new("L", (64, 64), 80 * number).save(names[-1])
    command = (*(word for word in command if word not in ("--image", PICTURE)), *names, "-f", "json", "--batch", "1",
               "-o", str(tmp_path / "out"))  # fmt: skip
    real, done = Folder.complete, []

    def stopped(self, piece, *args, **more):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(piece)
        real(self, piece, *args, **more)

    monkeypatch.setattr(Folder, "complete", stopped)
    assert cli(*command).code == 130
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1", "modelprobe.json"]
    monkeypatch.setattr(Folder, "complete", real)
    resumed = json.loads(cli(*command).out)
    assert any("2 of 3 images were complete before" in note["text"] for note in resumed["notes"])
    fresh = json.loads(cli(*command, "--force").out)
    assert resumed["entries"] == fresh["entries"]
    assert [key for key in fresh if fresh[key] != resumed[key]] == ["notes"]
    again = json.loads(cli(*command).out)
    assert any("3 of 3 images were complete before" in note["text"] for note in again["notes"])
    assert {key: value for key, value in again.items() if key != "notes"} == {
        key: value for key, value in fresh.items() if key != "notes"
    }


@pytest.mark.zoo
def test_a_batch_gives_what_each_image_gives(cli, tmp_path):
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    for command in (("cam", *CNN), ("attention", *VIT), ("features", *CNN[:3], "--layers", "*")):
        words = (
            *(word for word in command if word not in ("--image", PICTURE)),
            "--image",
            str(tmp_path),
            "-f",
            "json",
        )
        alone, together = (json.loads(cli(*words, "--batch", size).out) for size in ("1", "3"))
        key = "pictures" if command[0] == "features" else "entries"
        same(alone[key], together[key])


def same(one, other):
    """Plain values that are equal, numbers to 1e-4."""
    if isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    elif isinstance(one, dict):
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for item, another in zip(one, other, strict=True):
            same(item, another)
    else:
        assert one == other


def test_attention_spread_over_all_places_is_said(cli, tmp_path):
    (tmp_path / "even.py").write_text(
        "from samples.models import DigitViT\n"
        "def even():\n    model = DigitViT()\n"
        "    for parameter in model.parameters():\n        parameter.data *= 0\n    return model\n"
    )
    answer = cli("attention", f"{tmp_path}/even.py:even", "--weights", "random", "--image", PICTURE)
    assert "near uniform" in answer.out
    assert "their peaks say little" in " ".join(answer.out.split())
