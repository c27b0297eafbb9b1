"""Images that are no photographs: arrays in .npy files, and files of Pillow's with as many bands as a model takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelprobe.errors import BadInput, one_line
from modelprobe.report.blocks import Level, Note

Bands = NDArray[np.float32]
"""[channels, rows, columns], or [channels, length], or [channels, slices, rows, columns]: values as a model takes them

before its mean and deviation."""

ARRAY_SUFFIX = ".npy"


ARRAY_SIDES = {1: "length", 2: "rows x columns", 3: "slices x rows x columns"}


def read_array(
    path: Path, channels: int, values: tuple[float, float] | None, most: int, space: int = 2
) -> tuple[Bands, list[Note]]:
    """The bands in a .npy file for a model of `channels`, at most `most` pixels of them; and how they were read.

    `space` counts the dimensions beside the channels: 1 of a signal, 2 of an image, 3 of a volume.
    [H, W], [C, H, W] and [H, W, C] are known by the number of channels. Unsigned integers are divided by their largest
    value, or `values` become 0 and 1; others are taken as they are. Raises BadInput.
    """
    array = _loaded_array(path)
    shape = "x".join(map(str, array.shape)) or "a single number"
    if array.dtype.kind not in "buif":
        raise BadInput(f"{path} holds {array.dtype}, not numbers that are an image", "save it as float32 or uint8")
    if array.ndim not in (space, space + 1) or not array.size:
        what = {1: "signal", 2: "image", 3: "volume or video"}[space]
        raise BadInput(f"{path} holds {shape}, which is no {what}", f"save it as {channels} x {ARRAY_SIDES[space]}")
    notes: list[Note] = []
    if array.ndim == space:
        array = array[None]
        if channels == 3 and space > 1:
            array = np.broadcast_to(array, (3, *array.shape[1:]))
            notes.append(Note("one band, given to the model as three equal channels", Level.INFO))
    elif array.shape[0] == channels:
        if array.shape[-1] == channels:
            text = f"{shape} read as channels x {ARRAY_SIDES[space]}, though the last size would do for channels too"
            notes.append(Note(text, Level.ASSUMED))
    elif array.shape[-1] == channels:
        array = np.moveaxis(array, -1, 0)
    if array.shape[0] != channels:
        raise BadInput(f"{path} holds {shape}, and the model takes {_many(channels)}",
                       f"save it as {channels} x {ARRAY_SIDES[space]}")  # fmt: skip
    if math.prod(array.shape[1:]) > most:
        raise BadInput(f"{path} has more than {most // 10**6} million pixels", "scale it down first")
    bands, note = _scaled(array, values)
    return bands, [*notes, note]


def _loaded_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        text = "Python objects, a pickle" if "object" in str(error).lower() else one_line(error).rstrip(".")
        raise BadInput(f"{path} cannot be read as an array: {text}", "numpy.save writes one") from error
    if not isinstance(array, np.ndarray):
        raise BadInput(f"{path} holds several arrays", "save the one array with numpy.save")
    return array


def _scaled(array: NDArray[Any], values: tuple[float, float] | None) -> tuple[Bands, Note]:
    bands: Bands = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(bands)
    lost = bands.size - int(finite.sum())
    worse = f"; NaN or infinite: {lost:,} of {bands.size:,} values" if lost else ""
    if values is not None:
        low, high = values
        text = f"values {low:g}..{high:g} made 0..1, as --range says{worse}"
        return (np.clip(bands, low, high) - low) / (high - low), Note(text, Level.WARNING if lost else Level.INFO)
    if array.dtype.kind == "u":
        most = np.iinfo(array.dtype).max
        return bands / np.float32(most), Note(f"{array.dtype} divided by {most:,}", Level.INFO)
    good = bands[finite]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 0.0)
    text = f"{array.dtype} of {low:.4g}..{high:.4g} taken as it is, before mean and deviation{worse}"
    usual = Level.INFO if low >= 0 and high <= 1 else Level.ASSUMED
    return bands, Note(text, Level.WARNING if lost else usual)


def bands_of_image(path: Path, opened: Image.Image, upright: Image.Image, channels: int) -> tuple[Bands, list[Note]]:
    """The bands of an image file (RGBA, CMYK, a page for each channel) for a model of neither 1 nor 3 channels.

    Raises BadInput where there are not as many.
    """
    count, pages = len(upright.getbands()), int(getattr(opened, "n_frames", 1))
    if count == channels:
        array = np.moveaxis(np.asarray(upright), -1, 0) if count > 1 else np.asarray(upright)[None]
        note = f"its {count} bands, {', '.join(upright.getbands())}, given to the model"
    elif count == 1 and pages == channels:
        array = np.stack([_page(opened, number) for number in range(pages)])
        note = f"its {pages} pages given to the model as channels"
    else:
        has = f"{pages} pages of {_many(count)}" if pages > 1 else _many(count)
        raise BadInput(f"{path} has {has}, and the model takes {channels}",
                       f"numpy.save an array of {channels} x rows x columns as {path.stem}.npy")  # fmt: skip
    kept = array.astype(np.uint16) if array.dtype.kind == "i" and array.min() >= 0 and array.max() < 2**16 else array
    bands, how = _scaled(kept, None)
    return bands, [Note(note, Level.INFO), how]


def _page(opened: Image.Image, number: int) -> NDArray[Any]:
    opened.seek(number)
    return np.array(opened)


def _many(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def slices_of(bands: Bands) -> tuple[Image.Image, ...]:
    """A picture of each slice of a volume; none of what is no volume."""
    return tuple(bands_picture(bands[:, at]) for at in range(bands.shape[1])) if bands.ndim == 4 else ()


def bands_picture(bands: Bands) -> Image.Image:
    """The first three bands as red, green and blue (the first as gray where there are fewer), each over its range.

    Of a volume the middle slice, of a signal its line.
    """
    if bands.ndim == 2:
        from modelprobe.vision.pictures.curves import line_picture

        return line_picture(bands)
    bands = bands if bands.ndim == 3 else bands[:, bands.shape[1] // 2]
    shown = bands[:3] if len(bands) >= 3 else bands[:1]
    values = np.where(np.isfinite(shown), shown, 0.0)
    low, high = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    bytes_ = np.rint((values - low) / np.where(high > low, high - low, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.moveaxis(bytes_, 0, -1) if len(shown) == 3 else bytes_[0])
