"""Small models of the kinds that users ask about: each answers on the command line as the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command_line import CommandLine, said
from tests.sampling import sampled

NETS = """
import torch
import torch.nn.functional as F
from torch import nn

CFG = dict(input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


def body(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                         nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())


class Plain(nn.Module):
    default_cfg = CFG

    def __init__(self, n=10, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = body(channels), nn.Linear(16, n)
        self.head.weight.data *= 20

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Softmaxed(Plain):
    def forward(self, x):
        return super().forward(x).softmax(1)


class LogSoftmaxed(Plain):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class MultiLabel(Plain):
    def forward(self, x):
        return super().forward(x).sigmoid()


class OneLogit(Plain):
    def __init__(self):
        super().__init__(1)


class OneLogitFlat(OneLogit):
    def forward(self, x):
        return super().forward(x).squeeze(1)


class Sigmoided(OneLogit):
    def forward(self, x):
        return super().forward(x).sigmoid()


class FeaturesFirst(Plain):
    def forward(self, x):
        f = self.features(x).mean((2, 3))
        return f, self.head(f)


class Heads(nn.Module):
    default_cfg = CFG

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.age, self.sex = body(), nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, x):
        f = self.features(x).mean((2, 3))
        return {"age": self.age(f), "sex": self.sex(f)}


class Places(nn.Module):
    default_cfg = CFG

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = body(), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return {"out": F.interpolate(self.head(self.features(x)), x.shape[-2:], mode="bilinear")}


def compiled():
    return torch.compile(Plain())


class FourChannels(Plain):
    default_cfg = dict(input_size=(4, 64, 64))

    def __init__(self):
        super().__init__(10, 4)


class Sums(nn.Module):
    default_cfg = CFG

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.relu = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU()
        self.c = nn.ModuleList([nn.Conv2d(16, 16, 3, 1, 1) for _ in range(4)])
        self.down, self.skip, self.fc = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(16, 32, 1, 2), nn.Linear(32, 10)

    def last(self, x):
        x = self.relu(self.stem(x))
        for i in range(0, 4, 2):
            x = self.relu(x + self.c[i + 1](self.relu(self.c[i](x))))
        return self.relu(self.down(x) + self.skip(x))

    def forward(self, x):
        return self.fc(self.last(x).mean((2, 3)))


class FunctionalSums(Sums):
    def last(self, x):
        x = F.relu(self.stem(x))
        for i in range(0, 4, 2):
            x = F.relu(x + self.c[i + 1](F.relu(self.c[i](x))))
        return F.relu(self.down(x) + self.skip(x))


class Concatenations(nn.Module):
    default_cfg = CFG

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.d, self.fc = nn.Conv2d(16, 8, 3, 1, 1), nn.Linear(24, 10)

    def last(self, x):
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        return torch.cat([a, b, F.relu(self.d(torch.cat([a, b], 1)))], 1)

    def forward(self, x):
        return self.fc(self.last(x).mean((2, 3)))
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    values = np.random.default_rng(3).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    values[10:30, 20:50] = 250
    Image.fromarray(values[..., :3]).save("photo.png")
    np.save("bands.npy", values.astype(np.float32) / 255)
    return CommandLine(capsys)


def made(name: str) -> Any:
    """The model, and the photo as it is given to it."""
    scope: dict[str, Any] = {}
    exec(NETS, scope)
    torch.manual_seed(0)
    model = scope[name]().eval()
    torch.save(model.state_dict(), "w.pth")
    return model, (torch.from_numpy(np.asarray(Image.open("photo.png"), dtype=np.float32)) / 255).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("name", "shares"),
    sampled(
        [
            ("Plain", lambda out: out.softmax(1)),
            ("Softmaxed", lambda out: out),
            ("LogSoftmaxed", lambda out: out.exp()),
            ("MultiLabel", lambda out: out),
            ("OneLogit", lambda out: out.sigmoid()),
            ("OneLogitFlat", lambda out: out.sigmoid()[:, None]),
            ("Sigmoided", lambda out: out),
            ("FeaturesFirst", lambda out: out[1].softmax(1)),
        ],
        4,
        pytest.mark.zoo,
    ),
)
def test_probabilities_are_the_models_own(cli: CommandLine, name: str, shares: Any) -> None:
    model, x = made(name)
    expected = shares(model((x - 0.5) / 0.5))[0]
    target = (f"nets.py:{name}", "--weights", "w.pth", "--image", "photo.png", "-f", "json")
    (found,) = json.loads(cli("predict", *target, "--top", "10").out)["predictions"]
    assert {one["index"]: one["probability"] for one in found["guesses"]} == {
        index: pytest.approx(float(value), rel=1e-4, abs=1e-6) for index, value in enumerate(expected)
    }
    (entry,) = json.loads(cli("cam", *target).out)["entries"]
    assert entry["probability"] == pytest.approx(float(expected.max()), rel=1e-4)


def test_one_of_several_outputs(cli: CommandLine) -> None:
    model, x = made("Heads")
    target = ("nets.py:Heads", "--weights", "w.pth", "--image", "photo.png")
    answer = cli("predict", *target)
    assert answer.code == 2
    assert "2 tensors that may be scores: age [1], sex [2]" in said(answer)
    (found,) = json.loads(cli("predict", *target, "--output-name", "sex", "-f", "json").out)["predictions"]
    expected = model((x - 0.5) / 0.5)["sex"].softmax(1)[0]
    assert found["guesses"][0]["probability"] == pytest.approx(float(expected.max()), rel=1e-4)
    (found,) = json.loads(
        cli("predict", *target, "--output-name", "age", "--scores", "none", "-f", "json").out
    )["predictions"]  # fmt: skip
    assert found["guesses"][0]["score"] == pytest.approx(float(model((x - 0.5) / 0.5)["age"]), rel=1e-4)
    assert found["guesses"][0]["probability"] is None


@pytest.mark.zoo
def test_a_score_at_every_place(cli: CommandLine) -> None:
    model, x = made("Places")
    target = ("nets.py:Places", "--weights", "w.pth", "--image", "photo.png")
    won = model((x - 0.5) / 0.5)["out"][0].argmax(0)
    (found,) = json.loads(cli("predict", *target, "-f", "json").out)["predictions"]
    areas = {one["index"]: one["area"] for one in found["guesses"]}
    assert areas == {index: pytest.approx(float((won == index).float().mean())) for index in range(5)}
    nowhere = next(index for index, area in areas.items() if area == 0)
    named = (*target, "--class", str(nowhere), "-o", "out")
    assert f"class {nowhere} scores highest at no place of this image | --at X,Y" in said(cli("cam", *named))
    assert not Path("out").exists()
    assert cli("cam", *target, "--class", str(nowhere), "--at", "8,8").code == 0  # as the hint says
    assert "lies outside" in said(cli("cam", *target, "--at", "64,0", "-o", "out"))
    Image.new("L", (10, 10), 255).save("mask.png")
    assert "the mask has 10 x 10 pixels, and the model sees 64 x 64" in said(cli("cam", *target, "--mask", "mask.png"))
    Image.new("L", (64, 64), 0).save("mask.png")
    assert "has no white pixel" in said(cli("cam", *target, "--mask", "mask.png", "-o", "out"))
    assert "there is no class 7" in said(cli("cam", *target, "--class", "7", "-o", "out"))
    assert not Path("out").exists()


def test_four_channels(cli: CommandLine) -> None:
    target = ("nets.py:FourChannels", "--weights", "random", "--image", "bands.npy", "-f", "json")
    assert len(json.loads(cli("predict", *target).out)["predictions"][0]["guesses"]) == 5
    assert json.loads(cli("cam", *target).out)["entries"][0]["grid"] == [8, 8]


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["Sums", "FunctionalSums", "Concatenations"])
def test_the_layer_is_the_last_sum_or_concatenation(cli: CommandLine, name: str) -> None:
    model, x = made(name)
    answer = cli("cam", f"nets.py:{name}", "--weights", "w.pth", "--image", "photo.png", "-o", "maps", "-f", "json")
    assert answer.code == 0
    (entry,) = json.loads(answer.out)["entries"]
    last = model.last((x - 0.5) / 0.5).detach().requires_grad_()
    model.fc(last.mean((2, 3)))[0, entry["target"]].backward()
    expected = (last.grad.mean((2, 3), keepdim=True) * last).sum(1)[0].detach().numpy()
    found = np.load("maps/photo/maps.npz")[f"{entry['array']}.raw"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max() + 1e-7


@pytest.mark.zoo
def test_a_compiled_model_is_looked_into(cli: CommandLine) -> None:
    given = ("--weights", "random", "--image", "photo.png", "-f", "json")
    compiled, plain = (json.loads(cli("cam", f"nets.py:{name}", *given).out) for name in ("compiled", "Plain"))
    assert any("the module in it was run" in note["text"] for note in compiled["notes"])
    assert compiled["entries"] == plain["entries"]
