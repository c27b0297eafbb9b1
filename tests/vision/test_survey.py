"""`images`: counts, sizes, broken files, and the mean and deviation of every pixel, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelprobe.errors import BadInput
from modelprobe.vision.survey import survey
from tests.command_line import CommandLine


def made(folder: Path) -> list[np.ndarray]:
    drawn = np.random.default_rng(0)
    colours = [drawn.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((4, 6), (4, 6), (8, 3))]
    (folder / "below").mkdir()
    for index, values in enumerate(colours):
        Image.fromarray(values).save(folder / "below" / f"{index}.png")
    gray = drawn.integers(0, 256, (5, 5), dtype=np.uint8)
    Image.fromarray(gray).save(folder / "gray.png")
    (folder / "cut.png").write_bytes((folder / "gray.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("no image")
    return [*colours, np.repeat(gray[..., None], 3, 2)]


def test_counts_and_moments_by_hand(tmp_path: Path) -> None:
    pixels = np.concatenate([one.reshape(-1, 3) for one in made(tmp_path)]) / 255
    found = survey([str(tmp_path)])
    assert (found.images, len(found.broken), found.formats, found.modes) == (4, 1, {"PNG": 4}, {"RGB": 3, "L": 1})
    assert found.sizes == ((4, 6, 2), (5, 5, 1), (8, 3, 1))
    assert found.pixels == len(pixels)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9)
    assert found.broken[0][0].endswith("cut.png")


def test_gray_images_have_one_channel_and_wide_ones_their_range(tmp_path: Path) -> None:
    values = np.array([[0, 2000], [4000, 4095]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "twelve.png")
    found = survey([str(tmp_path)], (0.0, 4095.0))
    assert len(found.mean) == 1
    assert found.mean[0] == pytest.approx(float((values / 4095).mean()), abs=1 / 255)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path)
    ask = CommandLine(capsys)
    answer = ask("images", str(tmp_path), "-f", "json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["images"] == 4
    assert ask("images", str(tmp_path), "--strict").code == 3  # one cannot be read
    assert "--mean 0." in ask("images", str(tmp_path / "below")).out
    for wrong, says in (("nowhere", "there is no image nowhere"), (str(tmp_path / "notes.txt"), "can be read")):
        refused = ask("images", wrong)
        assert refused.code == 2
        assert says in refused.err


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="matches no file"):
        survey([str(tmp_path)])
