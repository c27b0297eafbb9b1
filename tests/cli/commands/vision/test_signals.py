"""Signals, volumes and videos on the command line: maps of their own shape, equal to formulas written out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modelprobe
from modelprobe.vision.attention.attention import attentions_of
from modelprobe.vision.attention.maps import query_of, weights_of_query
from tests.command_line import CommandLine, said

NETS = """
import torch
from torch import nn


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv1d(1, 8, 7, 2, 3), nn.Conv1d(8, 16, 7, 2, 3), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.c2(torch.relu(self.c1(x)))).mean(2))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv3d(1, 8, 3, 2, 1), nn.Conv3d(8, 16, 3, 1, 1), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.c2(torch.relu(self.c1(x)))).mean((2, 3, 4)))


class Clips(nn.Module):
    def __init__(self):
        super().__init__()
        self.cut, self.attention, self.fc = nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), Attention(), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.attention(self.cut(x).flatten(2).transpose(1, 2)).mean(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def made(kind):
    torch.manual_seed(0)
    return kind().eval()
"""
METHODS = "gradcam,hirescam,gradcam++,layercam,eigencam,scorecam,saliency,integrated-gradients,occlusion"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    time = np.linspace(0, 40, 400)
    np.save("signal.npy", (np.sin(time) * (time > 20)).astype(np.float32))
    np.save("volume.npy", np.random.default_rng(0).random((8, 24, 32), dtype=np.float32))
    return CommandLine(capsys)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "size"), [("signal", (400,)), ("volume", (8, 24, 32))])
def test_maps_have_the_shape_of_what_was_given(cli: CommandLine, name: str, size: tuple[int, ...]) -> None:
    target = f"nets.py:{name.capitalize()}"
    answer = cli("cam", target, "--weights", "random", "--image", f"{name}.npy", "--method", METHODS, "--class", "3",
                 "--judge", "-o", "out", "-f", "json")  # fmt: skip
    assert answer.code == 0
    found = json.loads(answer.out)
    arrays = np.load(f"out/{name}/maps.npz")
    for entry in found["entries"]:
        values = arrays[entry["array"]]
        assert values.shape == size
        assert values[tuple(entry["peak"])] == values.max()
        assert (Path("out") / entry["overlay"]).is_file()
    assert len(list(Path("out").rglob("*.gif"))) == (9 if name == "volume" else 0)
    page = Path("out/index.html").read_text()
    assert page.count(".gif") == (18 if name == "volume" else 0)  # in its place, and as large as the window


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "space"), [("signal", 1), ("volume", 3)])
def test_grad_cam_is_the_formula(cli: CommandLine, name: str, space: int) -> None:
    scope: dict[str, object] = {}
    exec(NETS, scope)
    model = scope["made"](scope[name.capitalize()])  # type: ignore[operator]
    torch.save(model.state_dict(), "w.pth")
    assert cli("cam", f"nets.py:{name.capitalize()}", "--weights", "w.pth", "--image", f"{name}.npy", "--class", "3",
               "-o", "out").code == 0  # fmt: skip
    x = torch.from_numpy(np.load(f"{name}.npy"))[None, None]
    features = torch.relu(model.c2(torch.relu(model.c1(x)))).detach().requires_grad_()
    places = tuple(range(2, 2 + space))
    score = model.fc(features.mean(places))[0, 3]
    (gradient,) = torch.autograd.grad(score, features)
    expected = (gradient.mean(places, keepdim=True) * features).sum(1)[0].detach().numpy()
    assert np.abs(np.load(f"out/{name}/maps.npz")["gradcam.3.raw"] - expected).max() < 1e-6


def test_maps_of_videos_in_python(cli: CommandLine) -> None:
    scope: dict[str, object] = {}
    exec(NETS, scope)
    model = scope["made"](scope["Clips"])  # type: ignore[operator]
    clips = torch.rand(2, 3, 4, 16, 24)
    maps = modelprobe.cam(model, clips, 1, method="hirescam")
    assert [tuple(found.map.shape) for found in maps] == [(4, 16, 24)] * 2
    alone = modelprobe.cam(model, clips[1:], 1, method="hirescam")
    assert torch.allclose(maps[1].map, alone.map, atol=1e-5)
    assert [guesses[0].index for guesses in modelprobe.predict(model, clips)] == model(clips).argmax(1).tolist()
    assert [entries[0].frames for entries in modelprobe.attention(model, clips)] == [2, 2]


@pytest.mark.zoo
def test_features_of_signals_and_volumes(cli: CommandLine) -> None:
    found = json.loads(cli("features", "nets.py:Signal", "--weights", "random", "--layers", "c1,fc", "--image",
                           "signal.npy", "-o", "a", "-f", "json").out)  # fmt: skip
    assert [layer["shape"] for layer in found["layers"]] == [[1, 8, 200], [1, 5]]
    assert Path("a/signal/c1.matrix.png").is_file()
    found = json.loads(cli("features", "nets.py:Volume", "--weights", "random", "--layers", "c1", "--image",
                           "volume.npy", "-o", "b", "-f", "json").out)  # fmt: skip
    assert found["layers"][0]["layout"] == "NCDHW"
    assert any("a volume, given to the model as it is: not resized" in note["text"] for note in found["notes"])
    assert Path("b/volume/c1.frames.png").is_file()


@pytest.mark.zoo
def test_attention_over_the_frames_of_a_video(cli: CommandLine) -> None:
    scope: dict[str, object] = {}
    exec(NETS, scope)
    model = scope["made"](scope["Clips"])  # type: ignore[operator]
    clips = torch.rand(2, 3, 4, 16, 24)
    for number, (item,) in enumerate(attentions_of(model, clips, "Clips")):
        tokens = model.cut(clips[number : number + 1]).flatten(2).transpose(1, 2)
        q, k, _ = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in model.attention.qkv(tokens).chunk(3, 2))
        expected = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)[0].mean(1).reshape(2, 2, 2, 3)
        maps, _ = weights_of_query(item, item.weights(), query_of(item, None))
        assert item.keys.frames == 2
        assert torch.allclose(maps.reshape(2, 2, 2, 3), expected, atol=1e-5)
    Image.new("RGB", (24, 24), "red").save("photo.png")
    answer = cli("attention", "nets.py:Clips", "--weights", "random", "--image", "photo.png", "-o", "out", "-f", "json")
    entry = json.loads(answer.out)["entries"][0]
    assert len(entry["grid"]) == len(entry["peak"]) == 3
    assert (Path("out") / entry["figure"]).is_file()


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("target", "shape", "message"),
    [
        ("Signal", (3, 400), "holds 3x400, and the model takes 1 channel"),
        ("Signal", (2, 3, 4), "holds 2x3x4, which is no signal"),
        ("Volume", (4, 4), "holds 4x4, which is no volume or video"),
        ("Volume", (2, 8, 24, 32), "holds 2x8x24x32, and the model takes 1 channel"),
    ],
)
def test_arrays_of_another_shape(cli: CommandLine, target: str, shape: tuple[int, ...], message: str) -> None:
    np.save("bad.npy", np.zeros(shape, np.float32))
    answer = cli("cam", f"nets.py:{target}", "--weights", "random", "--image", "bad.npy", "-o", "out")
    assert answer.code == 2
    assert message in said(answer)
    assert not Path("out").exists()


def test_a_photo_is_no_signal(cli: CommandLine) -> None:
    Image.new("RGB", (24, 24)).save("photo.png")
    answer = cli("predict", "nets.py:Signal", "--weights", "random", "--image", "photo.png")
    assert answer.code == 2
    assert "photo.png is no array, and the model takes signals" in said(answer)
