"""`predict`: the best classes, with labels and probabilities, and what is no classifier."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import ROOT

CNN = f"{SAMPLES}:TinyCNN"
SHAPES = str(ROOT / "samples" / "shapes.png")

NETS = """
import torch
from torch import nn

class Fixed(nn.Module):
    default_cfg = {"input_size": (3, 8, 8)}
    def __init__(self, scores=(1.0, 3.0, 2.0)):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))
    def forward(self, x):
        return self.scores[None] + 0 * x.sum()

def single(): return Fixed((0.0,))
def shares(): return Fixed((0.2, 0.5, 0.3))
def broken(): return Fixed((1.0, float("nan"), 2.0))
def lost(): return Fixed((float("nan"),) * 3)
class Dense(Fixed):
    def forward(self, x): return x.permute(0, 2, 1, 3)[..., None]
class Named(Fixed):
    default_cfg = {"input_size": (3, 8, 8), "label_names": ["ant", "bee", "cat"]}
class Raises(Fixed):
    def forward(self, x): raise ValueError("no such luck")
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return CommandLine(capsys)


def guesses(cli: CommandLine, target: str, *more: str) -> list[dict]:
    answer = cli("predict", target, "--image", SHAPES, *more, "-f", "json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["predictions"][0]["guesses"]


def test_softmax_by_hand(cli: CommandLine) -> None:
    found = guesses(cli, "nets.py:Fixed", "--top", "2")
    # e^3 / (e + e^2 + e^3) = 0.66524, e^2 / (e + e^2 + e^3) = 0.24473
    assert [(one["index"], one["label"], one["rank"]) for one in found] == [(1, "class 1", 1), (2, "class 2", 2)]
    assert [one["probability"] for one in found] == pytest.approx([0.66524, 0.24473], abs=1e-5)


@pytest.mark.zoo
def test_scores_that_are_no_logits(cli: CommandLine) -> None:
    assert guesses(cli, "nets.py:single")[0]["probability"] == 0.5
    assert [one["probability"] for one in guesses(cli, "nets.py:shares")] == pytest.approx([0.5, 0.3, 0.2])
    assert "sum to 1 already" in cli("predict", "nets.py:shares", "--image", SHAPES).out
    assert [one["index"] for one in guesses(cli, "nets.py:broken")] == [2, 0, 1]  # NaN is never the best
    answer = cli("predict", "nets.py:lost", "--image", SHAPES)
    assert "every score is NaN or infinite" in answer.out


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "ant\nbee\ncat\n"),
        ("names.json", '["ant", "bee", "cat"]'),
        ("names.json", '{"0": "ant", "2": "cat", "1": ["n1", "bee"]}'),
    ],
)
def test_labels_from_a_file(cli: CommandLine, file: str, text: str) -> None:
    Path(file).write_text(text)
    assert [one["label"] for one in guesses(cli, "nets.py:Fixed", "--labels", file)] == ["bee", "cat", "ant"]


def test_labels_of_the_model(cli: CommandLine) -> None:
    assert [one["label"] for one in guesses(cli, "nets.py:Named")] == ["bee", "cat", "ant"]


def test_labels_of_the_zoos() -> None:
    from modelprobe.model.target import resolve
    from modelprobe.vision.labels import labels_of

    for name, third, found in (("resnet18", "great white shark", 281), ("timm:test_vit", "tiger shark", 281)):
        target = resolve(name)
        labels = labels_of(target, target.build().module)
        assert len(labels.names) == 1000
        assert labels.of(281).startswith("tabby")
        assert labels.find("tabby") == found
        assert third.split(" ")[-1] in labels.of(2 if third[0] == "g" else 3)


def test_labels_of_another_model_are_not_used(cli: CommandLine) -> None:
    Path("two.txt").write_text("ant\nbee\n")
    answer = cli("predict", "nets.py:Fixed", "--image", SHAPES, "--labels", "two.txt")
    assert "class 1" in answer.out
    assert "two.txt 2 names: they were not used" in " ".join(answer.out.split())


@pytest.mark.zoo
def test_many_pictures(cli: CommandLine) -> None:
    for number in (10, 9):
        Image.new("RGB", (30, 30), (number, 0, 0)).save(f"p{number}.png")
    Path("p2.png").write_bytes(b"")
    answer = cli("predict", CNN, "--image", ".", "--top", "2", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert answer.code == 0
    assert [row["image"] for row in rows] == ["p2.png", "p9.png", "p9.png", "p10.png", "p10.png"]
    assert "is empty (0 bytes)" in rows[0]["error"]
    assert [row["rank"] for row in rows] == ["", "1", "2", "1", "2"]
    assert cli("predict", CNN, "--image", ".", "--strict").code == 3
    assert "p2.png is empty" in said(cli("predict", CNN, "--image", "p2.png"))


def test_the_same_as_by_hand(cli: CommandLine) -> None:
    """A trained-like file, repaired in memory, gives what the network itself gives."""
    from tests.samples import models

    torch.manual_seed(3)
    net = models.TinyCNN().eval()
    torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, "w.pth")
    options = ("--resize", "40x40", "--no-crop", "--mean", "0.5", "--std", "0.25")
    found = guesses(cli, CNN, "--weights", "w.pth", "--top", "10", *options)
    picture = Image.open(SHAPES).resize((40, 40), Image.Resampling.BILINEAR)
    values = torch.tensor([list(pixel) for pixel in picture.get_flattened_data()]) if hasattr(
        picture, "get_flattened_data") else torch.tensor(list(picture.getdata()))  # fmt: skip
    with torch.no_grad():
        scores = net((values.view(1, 40, 40, 3).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)[0]
    assert [one["score"] for one in sorted(found, key=lambda one: one["index"])] == pytest.approx(
        scores.tolist(), abs=1e-5
    )
    arch = guesses(cli, "w.pth", "--arch", CNN, "--top", "10", *options)
    assert arch == found


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nets.py:Dense", "--image", SHAPES), 2, "Dense is no classifier: it puts out 1x8x3x8x1"),
        (("nets.py:Raises", "--image", SHAPES), 4, "the model raised ValueError: no such luck"),
        ((CNN,), 2, "which images? --image was not given"),
        ((CNN, "--image", SHAPES, "--labels", "no.txt"), 2, "--labels no.txt cannot be read"),
        ((CNN, "--image", SHAPES, "--labels", "nets.json"), 2, "--labels nets.json is no JSON"),
        ((f"{SAMPLES}:TinyAttention", "--image", SHAPES), 2, "TinyAttention takes no images"),
    ],
)
def test_bad_input(cli: CommandLine, arguments: tuple[str, ...], code: int, says: str) -> None:
    Path("nets.json").write_text("{")
    answer = cli("predict", *arguments)
    assert answer.code == code
    assert says in said(answer)


def test_what_a_person_reads(cli: CommandLine, golden) -> None:
    golden("predict.TinyCNN.80.txt", cli("predict", CNN, "--image", SHAPES).out.replace(SHAPES, "shapes.png"))


MIXED = """
import torch
from torch import nn

class Mixed(nn.Module):
    default_cfg = {"input_size": (3, 8, 8)}
    def __init__(self, mixed=True):
        super().__init__()
        self.conv, self.head, self.mixed = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5), mixed
    def forward(self, x):
        y = self.head(self.conv(x).relu().mean((2, 3)))
        return y - y.mean(0) * 0.9 if self.mixed else y
"""


def colored(folder: Path) -> list[str]:
    files = []
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("gray", (128, 128, 128))):
        files.append(str(folder / f"{name}.png"))
        Image.new("RGB", (8, 8), color).save(files[-1])
    return files


@pytest.mark.zoo
@pytest.mark.parametrize("command", ["predict", "cam"])
def test_a_model_that_looks_across_the_batch_is_shown_one_image_at_a_time(
    cli: CommandLine, tmp_path: Path, command: str
) -> None:
    (tmp_path / "net.py").write_text(MIXED)
    images = [word for file in colored(tmp_path) for word in ("--image", file)]
    line = (command, f"{tmp_path}/net.py:Mixed", *images, "-f", "json")
    together, alone = (json.loads(cli(*line, "--batch", size).out) for size in ("3", "1"))
    key = "predictions" if command == "predict" else "entries"
    assert together[key] == alone[key]
    assert any("depends on the others in its batch" in note["text"] for note in together["notes"])
    plain = json.loads(cli(*line, "--batch", "3", "--set", "mixed=false").out)
    assert not any("one by one" in note["text"] for note in plain["notes"])


def test_the_error_of_an_image_is_no_class(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MIXED)
    (tmp_path / "broken.png").write_text("no image")
    images = [word for file in [*colored(tmp_path), str(tmp_path / "broken.png")] for word in ("--image", file)]
    answer = cli("predict", f"{tmp_path}/net.py:Mixed", "--set", "mixed=false", *images, "--top", "1", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    assert rows[3]["label"] == ""
