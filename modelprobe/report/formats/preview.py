"""A small picture in characters: two pixels in each cell where there is colour, a shade where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from modelprobe.report.blocks import Pixel, Pixels

HALF = "▀"
SHADES, PLAIN_SHADES = " ░▒▓█", " .:-=+*#%@"


class Cell(NamedTuple):
    """One character, with the colours of its upper and its lower half; None leaves the terminal's own."""

    character: str
    upper: Pixel | None = None
    lower: Pixel | None = None


def cells(pixels: Pixels, colour: bool, unicode: bool) -> list[list[Cell]]:
    """Lines of cells for rows of pixels, two rows to a line."""
    lines = []
    for top in range(0, len(pixels), 2):
        upper = pixels[top]
        lower: Sequence[Pixel | None] = pixels[top + 1] if top + 1 < len(pixels) else [None] * len(upper)
        if colour and unicode:
            lines.append([Cell(HALF, one, other) for one, other in zip(upper, lower, strict=True)])
        else:
            shades = SHADES if unicode else PLAIN_SHADES
            lines.append([Cell(_shade(one, other, shades)) for one, other in zip(upper, lower, strict=True)])
    return lines


def _shade(upper: Pixel, lower: Pixel | None, shades: str) -> str:
    light = [_brightness(pixel) for pixel in (upper, lower) if pixel is not None]
    return shades[min(len(shades) - 1, int(sum(light) / len(light) * len(shades)))]


def _brightness(pixel: Pixel) -> float:
    """From 0 to 1, as Pillow makes grey of a colour."""
    red, green, blue = pixel
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255
