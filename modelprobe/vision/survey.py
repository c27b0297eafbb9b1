"""What is in a directory of images: how many, which sizes and modes, which are broken, and the mean of their pixels."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from modelprobe.console import progress, stdout_kept
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.vision.arrays import ARRAY_SUFFIX
from modelprobe.vision.images import Photo, find_images, open_image

MOST_SIZES = 12
"""Sizes that are listed; all others are one row."""

MOST_BROKEN = 20


@dataclass(frozen=True)
class SurveyResult(Result):
    """The answer of `images`. `mean` and `std` are of all pixels, each channel, of values in 0..1.

    `sizes` counts (height, width); gray images count as three equal channels where others have colors.
    """

    path: str
    images: int
    broken: tuple[tuple[str, str], ...]
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: tuple[tuple[int, int, int], ...]
    """(height, width, how many), the most frequent first."""
    pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[Note, ...] = field(default=())

    def report(self) -> Report:
        """Counts, what `--mean` and `--std` want, the sizes, the broken files."""
        shapes = sorted(self.sizes)
        numbers = {name: ",".join(f"{value:.4f}" for value in values) for name, values in
                   (("mean", self.mean), ("std", self.std))}  # fmt: skip
        facts = [
            Fact("Images", self.images, Unit.COUNT),
            *([Fact("Broken", len(self.broken), Unit.COUNT)] if self.broken else []),
            Fact("Formats", _tally(self.formats)),
            Fact("Modes", _tally(self.modes)),
            Fact("Smallest", _extent(min(shapes, key=lambda one: one[0] * one[1])), detail="height x width"),
            Fact("Largest", _extent(max(shapes, key=lambda one: one[0] * one[1]))),
            Fact("Mean", numbers["mean"], detail="of all pixels, values in 0..1"),
            Fact("Deviation", numbers["std"], detail=f"--mean {numbers['mean']} --std {numbers['std']}"),
        ]
        rows = [Row((f"{height}x{width}", count)) for height, width, count in self.sizes[:MOST_SIZES]]
        rest = sum(count for *_, count in self.sizes[MOST_SIZES:])
        if rest:
            rows.append(Row((f"{len(self.sizes) - MOST_SIZES:,} other sizes", rest), quiet=True))
        blocks: list[Block] = [
            Facts(tuple(facts)),
            Table((Column("size", "Size"), Column("count", "Images", Unit.COUNT)), tuple(rows), key="by_size"),
        ]
        if self.broken:
            columns = (Column("file", "Broken file"), Column("why", "Why", wrap=True))
            listed = tuple(Row(one) for one in self.broken[:MOST_BROKEN])
            blocks.append(Table(columns, listed, key="broken_files"))
        return Report(f"{self.path}: images", "modelprobe.images/1", (*blocks, *self.notes), self.to_dict())


def _tally(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(found.items(), key=lambda one: -one[1]))


def _extent(one: tuple[int, int, int]) -> str:
    return f"{one[0]}x{one[1]}"


class _Moments:
    """Sums of the values of pixels and of their squares, for each channel."""

    def __init__(self) -> None:
        self.pixels, self.first, self.second = 0, np.zeros(3), np.zeros(3)
        self.colours = False

    def add(self, picture: Image.Image) -> None:
        """One image, gray or RGB."""
        self.colours |= picture.mode != "L"
        found = ImageStat.Stat(picture)
        self.first += np.array(found.sum) / 255
        self.second += np.array(found.sum2) / 255**2
        self.pixels += found.count[0]

    def of_all(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel; of one, where all images are gray."""
        mean = self.first / max(1, self.pixels)
        std = np.sqrt(np.maximum(0, self.second / max(1, self.pixels) - mean**2))
        many = 3 if self.colours else 1
        return tuple(mean[:many].tolist()), tuple(std[:many].tolist())


def _form_of(file: Path, photo: Photo) -> tuple[str, str]:
    """The format of a file, and the mode of its pixels."""
    if file.suffix.lower() == ARRAY_SUFFIX:
        return "NumPy", photo.picture.mode
    with Image.open(file) as opened:
        return opened.format or "?", opened.mode


@stdout_kept()
def survey(paths: Sequence[str], values: tuple[float, float] | None = None) -> SurveyResult:
    """Read every image that `paths` name: files, directories with all below them, wildcards.

    Raises BadInput when none is found, or none can be read.
    """
    files = find_images([f"{glob.escape(path)}/**/*" if Path(path).is_dir() else path for path in paths])
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    broken: list[tuple[str, str]] = []
    moments = _Moments()
    with progress("reading images", len(files)) as advance:
        for file in files:
            try:
                photo = open_image(file, values)
            except BadInput as error:
                broken.append((str(file), error.message.removeprefix(f"{file} ")))
            else:
                form, mode = _form_of(file, photo)
                formats[form] += 1
                modes[mode] += 1
                sizes[photo.size] += 1
                moments.add(photo.picture)
            advance()
    if not sizes:
        raise BadInput(f"none of {len(files)} images can be read; {broken[0][0]} {broken[0][1]}", "check the files")
    mean, std = moments.of_all()
    notes = []
    if broken:
        notes.append(Note(f"{len(broken):,} of {len(files):,} files cannot be read.", Level.WARNING))
    ranked = tuple((*size, count) for size, count in sorted(sizes.items(), key=lambda one: (-one[1], one[0])))
    return SurveyResult(
        ", ".join(paths), sum(sizes.values()), tuple(broken), dict(formats), dict(modes), ranked, moments.pixels,
        mean, std, tuple(notes),
    )  # fmt: skip
