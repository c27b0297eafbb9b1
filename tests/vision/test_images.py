"""Images from files: which are found, how every kind is opened, and what is refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.images import MOST_PIXELS, find_images, gathered, open_image


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def texts(path: str) -> list[str]:
    return [note.text for note in open_image(path).notes]


# Which files?


def test_directories_and_wildcards_by_name_with_numbers_by_value() -> None:
    Path("d/below").mkdir(parents=True)
    for name in ("d/p10.png", "d/p9.JPG", "d/below/q.webp", "d/.hidden.png", "d/notes.txt", "d/x[1].png"):
        Path(name).touch()
    assert [str(p) for p in find_images(["d"])] == ["d/p9.JPG", "d/p10.png", "d/x[1].png"]
    assert [str(p) for p in find_images(["d/**/*"])] == ["d/p9.JPG", "d/p10.png", "d/below/q.webp", "d/x[1].png"]
    assert [str(p) for p in find_images(["d/x[1].png", "d/p*", "d/p10.png"])] == ["d/x[1].png", "d/p9.JPG", "d/p10.png"]
    assert find_images(["d/notes.txt"]) == [Path("d/notes.txt")]  # named: taken, whatever it is


@pytest.mark.parametrize(
    ("spec", "says", "hint"),
    [
        ("cta.png", "there is no image cta.png", "did you mean cat.png?"),
        ("*.gif", "matches no file", "check the pattern"),
        ("*.txt", "matches no file with the suffix of an image", ""),
        ("empty", "the directory empty holds no image", "empty/**/*"),
        ("https://example.org/cat.png", "is not on this machine", "download it first"),
        ("a\0b", "there is no image", ""),
    ],
)
def test_nothing_found(spec: str, says: str, hint: str) -> None:
    Path("cat.png").touch()
    Path("a.txt").touch()
    Path("empty").mkdir()
    with pytest.raises(BadInput) as raised:
        find_images([spec])
    assert says in raised.value.message
    assert hint in raised.value.hint


# What is in one?


def test_orientation_is_applied_and_said() -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    picture.save("turned.jpg", exif=exif, quality=95)
    photo = open_image("turned.jpg")
    assert photo.size == (40, 20)
    assert photo.picture.getpixel((10, 5))[0] > 200 > 50 > photo.picture.getpixel((10, 35))[0]
    assert [note.text for note in photo.notes] == ["turned upright as its EXIF orientation says"]


def test_a_broken_exif_block_is_no_reason_to_stop() -> None:
    Image.new("RGB", (8, 8)).save("x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_image("x.jpg").size == (8, 8)


@pytest.mark.parametrize(
    ("mode", "suffix", "becomes", "says"),
    [
        ("L", "png", "L", None),
        ("1", "png", "L", None),
        ("RGB", "png", "RGB", None),
        ("P", "png", "RGB", "palette colors made RGB"),
        ("CMYK", "jpg", "RGB", "CMYK made RGB, without a color profile"),
        ("YCbCr", "tiff", "RGB", "YCbCr made RGB"),
        ("LAB", "tiff", "RGB", "LAB made RGB"),
        ("LA", "png", "L", "its alpha channel, opaque everywhere, left out"),
        ("RGBA", "png", "RGB", "its alpha channel, opaque everywhere, left out"),
    ],
)
def test_modes(mode: str, suffix: str, becomes: str, says: str | None) -> None:
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").convert(mode).save(f"x.{suffix}")
    photo = open_image(f"x.{suffix}")
    assert photo.picture.mode == becomes
    assert (says is None and not photo.notes) or says in photo.notes[0].text


def test_transparency_is_put_on_white() -> None:
    picture = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    picture.putpixel((1, 0), (10, 20, 30, 255))
    picture.save("x.png")
    photo = open_image("x.png")
    assert list(photo.picture.tobytes()) == [255, 255, 255, 10, 20, 30]
    assert texts("x.png") == ["transparent pixels put on white"]


@pytest.mark.parametrize(
    ("values", "mode", "expected", "says"),
    [
        (np.array([[0, 257, 65535]], np.uint16), None, [0, 1, 255], "16-bit gray read as 8 bits"),
        (np.array([[0, 0.5, 1]], np.float32), None, [0, 128, 255], "32-bit floats of 0..1 read as 8 bits"),
        (
            np.array([[-1, 0, 3]], np.float32),
            None,
            [0, 64, 255],
            "32-bit gray stretched from -1..3 to 8 bits (--range LOW,HIGH names other values)",
        ),
    ],
)
def test_more_than_eight_bits(values: np.ndarray, mode: str | None, expected: list[int], says: str) -> None:
    Image.fromarray(values).save("x.tiff")
    assert list(open_image("x.tiff").picture.tobytes()) == expected
    assert texts("x.tiff") == [says]


def png_header(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    rows = zlib.compress(
        b"".join(b"\0" + bytes(width * 3 * bits // 8) for _ in range(height)) if width < 100 else b"\0"
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_sixteen_bits_per_colour_are_said() -> None:
    Path("x.png").write_bytes(png_header(4, 4, bits=16))
    assert texts("x.png") == ["16 bits per channel, read as 8"]


def test_the_first_frame_of_several() -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 120, 250)]
    frames[0].save("x.gif", save_all=True, append_images=frames[1:])
    assert "the first of 3 frames was taken" in texts("x.gif")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.png", None, "there is no image missing.png"),
        ("zero.png", b"", "zero.png is empty (0 bytes)"),
        ("text.png", b"hello", "text.png is no image that Pillow can read"),
        ("page.jpg", b"<html><body>404", "it is text in a markup language"),
        ("lfs.jpg", b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        ("run.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is PostScript"),
        ("zip.png", b"PK\x03\x04rest", "it is a zip archive"),
        ("bomb.png", png_header(30_000, 30_000), "bomb.png has more than 100 million pixels"),
        ("huge.png", png_header(10_001, 10_000), "has 10,001 x 10,000 pixels, more than 100 million"),
    ],
)
def test_what_is_no_picture(name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(BadInput) as raised:
        open_image(name)
    assert says in raised.value.message
    assert raised.value.hint
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "bmp", "webp", "tiff"])
def test_every_truncation_is_told_or_harmless(format: str) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(out, format=format)
    whole = out.getvalue()
    refused = 0
    for length in range(1, len(whole), max(1, len(whole) // 40)):
        Path("x").write_bytes(whole[:length])
        problem = None
        try:
            assert open_image("x").size == (24, 24)
        except BadInput as error:
            problem = error.message
        refused += problem is not None
        assert problem is None or problem.startswith("x is ")
    assert refused > 20


def test_the_largest_that_is_read() -> None:
    Image.new("L", (20_000, 40)).save("wide.png")
    assert open_image("wide.png").size == (40, 20_000)
    assert MOST_PIXELS >= 20_000 * 5_000


def test_a_directory_and_one_pixel() -> None:
    Path("d.png").mkdir()
    with pytest.raises(BadInput, match=r"d\.png is"):
        open_image("d.png")
    Image.new("RGB", (1, 1), (1, 2, 3)).save("one.png")
    assert open_image("one.png").size == (1, 1)


def test_notes_on_many_pictures_are_few() -> None:
    grey, odd = Note("gray"), Note("odd", Level.ASSUMED)
    told = [(Path(f"{n}.png"), grey) for n in range(3)] + [(Path("x.png"), odd)]
    assert gathered(told) == (Note("3 images, 0.png first: gray."), Note("x.png: odd.", Level.ASSUMED))
