"""`--inputs-from` in the commands that look at images: what a model takes beside them, or the images themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command_line import CommandLine, said

NET = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(10, 5)

    def forward(self, age, picture, *, scale):
        return self.fc(torch.cat([torch.relu(self.conv(picture)).mean((2, 3)), age * scale], 1))


class One(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, picture):
        return self.fc(torch.relu(self.conv(picture)).mean((2, 3)))


def both():
    return (torch.tensor([[1.0, 2.0]]), torch.rand(1, 3, 32, 32)), {"scale": 3}


def several():
    return torch.rand(3, 3, 32, 32)


def mixed():
    return (torch.rand(2, 2), torch.rand(2, 3, 32, 32)), {"scale": 3}


def none():
    return (torch.zeros(2, 5),)
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    for name, value in (("a", 40), ("b", 200)):
        Image.new("RGB", (32, 32), (value, 90, 20)).save(f"{name}.png")
    return CommandLine(capsys)


def model_and(name: str) -> tuple[torch.nn.Module, object]:
    scope: dict[str, object] = {}
    exec(NET, scope)
    torch.manual_seed(0)
    return scope["Two"]().eval(), scope[name]  # type: ignore[operator]


@pytest.mark.zoo
def test_what_stands_beside_each_image(cli: CommandLine) -> None:
    model, _ = model_and("both")
    torch.save(model.state_dict(), "w.pth")
    given = ("net.py:Two", "--weights", "w.pth", "--inputs-from", "net.py:both", "--image", "a.png", "--image", "b.png")
    found = json.loads(cli("predict", *given, "-f", "json").out)["predictions"]
    for one, name in zip(found, "ab", strict=True):
        x = torch.from_numpy(np.asarray(Image.open(f"{name}.png"), dtype=np.float32) / 255).permute(2, 0, 1)[None]
        expected = model(torch.tensor([[1.0, 2.0]]), x, scale=3).softmax(1)[0]
        assert one["guesses"][0]["index"] == int(expected.argmax())
        assert one["guesses"][0]["probability"] == pytest.approx(float(expected.max()), rel=1e-5)
    assert cli("cam", *given, "-o", "maps").code == 0
    found = json.loads(cli("features", *given, "--layers", "conv", "-f", "json").out)
    assert [layer["shape"] for layer in found["layers"]] == [[1, 8, 16, 16]]


@pytest.mark.zoo
def test_the_images_themselves(cli: CommandLine) -> None:
    given = ("net.py:One", "--weights", "random", "--inputs-from", "net.py:several", "-f", "json")
    found = json.loads(cli("predict", *given).out)
    assert [one["image"] for one in found["predictions"]] == [f"inputs-from/image-{number}" for number in range(3)]
    assert len(json.loads(cli("cam", *given, "-o", "maps").out)["entries"]) == 3
    assert sorted(path.name for path in Path("maps").iterdir() if path.is_dir()) == ["image-0", "image-1", "image-2"]
    found = json.loads(cli("features", *given, "--layers", "conv").out)
    assert not any("seeded noise" in note["text"] for note in found["notes"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixed", "gives 2 images beside other tensors | give one image at a time"),
        ("none", "gives no image"),
        ("nothing", "has no 'nothing'"),
    ],
)
def test_what_is_no_image(cli: CommandLine, name: str, message: str) -> None:
    answer = cli("cam", "net.py:Two", "--weights", "random", "--inputs-from", f"net.py:{name}", "-o", "out")
    assert answer.code == 2
    assert message in said(answer)
    assert not Path("out").exists()
