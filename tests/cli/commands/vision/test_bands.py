"""The four commands on a model of four channels."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.command_line import CommandLine, said

FOUR = """
from torch import nn

class Four(nn.Module):
    default_cfg = {"input_size": (4, 32, 32), "mean": (0.5,) * 4, "std": (0.25,) * 4, "crop_pct": 1.0}

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))
"""


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four.py").write_text(FOUR)
    np.save("bands.npy", np.random.default_rng(1).random((40, 50, 4), dtype=np.float32))
    Image.new("RGB", (40, 40)).save("photo.png")
    return CommandLine(capsys)


MODEL = ("four.py:Four", "--weights", "random")


@pytest.mark.zoo
def test_cam_and_features_draw_what_an_array_shows(cli, tmp_path):
    cli("cam", *MODEL, "--image", "bands.npy", "--method", "gradcam,occlusion", "-o", "maps")
    assert (tmp_path / "maps" / "bands" / "compare.png").is_file()
    assert len(list((tmp_path / "maps" / "bands").glob("gradcam.?.png"))) == 1
    cli("features", *MODEL, "--layers", "conv", "--image", "bands.npy", "-o", "seen")
    assert (tmp_path / "seen" / "bands" / "conv.overlay.png").is_file()


def test_a_photo_of_three_channels_is_left_out_among_arrays(cli):
    answer = cli("predict", *MODEL, "--image", "bands.npy", "--image", "photo.png", "-f", "json")
    assert answer.code == 0
    found = json.loads(answer.out)["predictions"]
    assert [bool(one["error"]) for one in found] == [False, True]
    assert "has 3 channels, and the model takes 4" in found[1]["error"]


def test_a_photo_alone_is_a_question(cli):
    answer = cli("cam", *MODEL, "--image", "photo.png")
    assert answer.code == 2
    assert "has 3 channels, and the model takes 4" in said(answer)


def test_the_page_can_be_moved_with_its_directory(cli, tmp_path):
    cli("cam", *MODEL, "--image", "bands.npy", "-o", str(tmp_path / "maps"))
    assert str(tmp_path) not in (tmp_path / "maps" / "index.html").read_text()


@pytest.mark.zoo
def test_images_made_with_random_weights_say_so(cli, tmp_path):
    cli("cam", *MODEL, "--image", "bands.npy", "-o", "maps")
    cli("features", *MODEL, "--layers", "conv", "--image", "bands.npy", "-o", "seen")
    drawn = [*(tmp_path / "maps" / "bands").glob("gradcam*.png"), *(tmp_path / "seen" / "bands").glob("conv.*.png")]
    assert len(drawn) >= 5
    for file in drawn:
        below = np.asarray(Image.open(file).convert("RGB"))[-20:].astype(int)
        red = (below[..., 0] > 150) & (below[..., 1] < 90) & (below[..., 2] < 90)
        assert red.sum() > 100, file
    assert np.asarray(Image.open("seen/bands/seen.png")).shape == (32, 32, 3)  # what the model sees, unchanged
