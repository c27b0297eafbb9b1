"""Arrays as images, and models of neither one nor three channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level
from modelprobe.vision.images import find_images, open_image
from modelprobe.vision.preprocessing.transform import NEVER, SHORTER, Preprocessing

RANDOM = np.random.default_rng(0)


def plain(channels: int, fit: str = NEVER, size: int | None = None) -> Preprocessing:
    """Values 0..1 as they are, resized to `size` where it is given."""
    sides = (size, size) if size else None
    return Preprocessing(channels, fit, sides, sides, "bilinear", (0.0,) * channels, (1.0,) * channels, "test")


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_an_array_of_floats_reaches_the_model_as_it_is(layout: str) -> None:
    values = RANDOM.random((5, 8, 9), dtype=np.float32)
    np.save("x.npy", values if layout == "CHW" else np.moveaxis(values, 0, -1))
    photo = open_image("x.npy", channels=5)
    assert torch.equal(plain(5).tensor(photo)[0], torch.from_numpy(values))
    assert plain(5).seen(photo).size == (9, 8)


def test_mean_and_deviation_of_each_channel_apply() -> None:
    np.save("x.npy", np.stack([np.full((4, 4), channel, np.float32) for channel in range(4)]))
    seeing = Preprocessing(4, NEVER, None, None, "bilinear", (1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 4.0, 4.0), "test")
    # (0 - 1) / 2, (1 - 1) / 2, (2 - 1) / 4, (3 - 1) / 4
    assert seeing.tensor(open_image("x.npy", channels=4))[0, :, 0, 0].tolist() == [-0.5, 0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("dtype", "value", "expected"), [("uint8", 51, 0.2), ("uint16", 13107, 0.2), ("int16", 7, 7.0)]
)
def test_unsigned_integers_are_divided_by_their_largest_value(dtype: str, value: int, expected: float) -> None:
    np.save("x.npy", np.full((2, 4, 4), value, dtype))
    assert plain(2).tensor(open_image("x.npy", channels=2)).unique().item() == pytest.approx(expected)


def test_range_names_what_becomes_black_and_white() -> None:
    np.save("x.npy", np.full((2, 4, 4), 300.0, np.float32))
    photo = open_image("x.npy", (100.0, 500.0), channels=2)
    assert plain(2).tensor(photo).unique().item() == pytest.approx(0.5)  # (300 - 100) / 400
    assert "as --range says" in photo.notes[0].text


def test_one_band_is_three_equal_channels_for_a_model_of_three() -> None:
    np.save("x.npy", RANDOM.random((6, 6), dtype=np.float32))
    tensor = plain(3).tensor(open_image("x.npy", channels=3))
    assert torch.equal(tensor[:, 0], tensor[:, 1])
    assert torch.equal(tensor[:, 0], tensor[:, 2])


def test_bands_are_resized_and_cut_as_images_are() -> None:
    np.save("x.npy", np.tile(np.arange(16, dtype=np.float32), (4, 8, 1)))
    tensor = plain(4, SHORTER, 4).tensor(open_image("x.npy", channels=4))
    assert tensor.shape == (1, 4, 4, 4)
    assert tensor[0, 0, 0].tolist() == pytest.approx([4.5, 6.5, 8.5, 10.5])  # pairs averaged, the center of eight


@pytest.mark.parametrize("mode", ["RGBA", "CMYK"])
def test_four_bands_of_an_image_file_are_four_channels(mode: str) -> None:
    pixels = RANDOM.integers(0, 255, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels, mode).save("x.tiff")
    expected = torch.from_numpy(np.moveaxis(pixels, -1, 0) / np.float32(255))
    assert torch.equal(plain(4).tensor(open_image("x.tiff", channels=4))[0], expected)


def test_pages_of_a_tiff_are_channels() -> None:
    pages = [Image.fromarray(np.full((4, 4), 51 * number, np.uint8)) for number in range(5)]
    pages[0].save("x.tiff", save_all=True, append_images=pages[1:])
    found = plain(5).tensor(open_image("x.tiff", channels=5))[0, :, 0, 0]
    assert found.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_a_directory_of_arrays() -> None:
    Path("d").mkdir()
    for name in ("a10", "a9"):
        np.save(f"d/{name}.npy", np.zeros((4, 4), np.float32))
    assert [path.name for path in find_images(["d"])] == ["a9.npy", "a10.npy"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(9, np.float32), "holds 9, which is no image"),
        (np.zeros((4, 0, 3), np.float32), "holds 4x0x3, which is no image"),
        (np.zeros((7, 8, 9), np.float32), "holds 7x8x9, and the model takes 4 channels"),
        (np.zeros((4, 8, 9), np.complex64), "holds complex64"),
        (np.array([{}, {}], object), "Python objects, a pickle"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(array: np.ndarray, message: str) -> None:
    np.save("x.npy", array)
    with pytest.raises(BadInput, match=message):
        open_image("x.npy", channels=4)


def test_files_that_are_no_arrays() -> None:
    Path("text.npy").write_text("hello")
    Path("empty.npy").write_bytes(b"")
    for name in ("text.npy", "empty.npy"):
        with pytest.raises(BadInput, match="cannot be read as an array"):
            open_image(name, channels=3)


def test_a_photo_for_a_model_of_four_channels_is_a_question() -> None:
    Image.new("RGB", (8, 8)).save("x.png")
    with pytest.raises(BadInput, match="has 3 channels, and the model takes 4") as caught:
        open_image("x.png", channels=4)
    assert "numpy.save" in caught.value.hint


@pytest.mark.parametrize("span", [None, (0.0, 1.0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(value: float, span: tuple[float, float] | None) -> None:
    values = np.full((3, 4, 4), 0.5, np.float32)
    values[:, 1, 2] = value
    np.save("x.npy", values)
    (note,) = open_image("x.npy", span).notes
    assert (note.level, "NaN or infinite: 3 of 48 values" in note.text) == (Level.WARNING, True)
