"""One map of numbers as an image: its values in colors, a title, and a bar that says which color is which value."""

from __future__ import annotations

from PIL import Image, ImageDraw

from modelprobe.vision.pictures.canvas import (
    INK,
    LINE,
    PAGE_MARGIN,
    SMALL,
    fitted_text,
    framed,
    number,
    pasted,
    titled_page,
    write_text_on,
)
from modelprobe.vision.pictures.colour import DEFAULT_COLOUR_MAP, ColourLimits, Values, colour_map, coloured, limits_of

SIDE = 448
"""The square that a map is drawn into, in pixels: every heat map of a run has one size."""

BAR, BAR_TEXT = 18, 74
"""Width of the color bar and of its numbers."""


def heat_map(
    values: Values,
    title: str,
    subtitle: str = "",
    *,
    cmap: str = DEFAULT_COLOUR_MAP,
    limits: ColourLimits | None = None,
) -> Image.Image:
    """An HxW array as an image with title and color bar, always of the same size.

    Each value is a square, not smoothed. `limits` fixes what the ends of the bar mean, to compare images.
    """
    limits = limits or limits_of(values)
    picture = fitted_text(coloured(values, cmap, limits), (SIDE, SIDE))
    return with_bar(picture, title, subtitle, cmap=cmap, limits=limits)


def with_bar(
    picture: Image.Image,
    title: str,
    subtitle: str = "",
    *,
    cmap: str = DEFAULT_COLOUR_MAP,
    limits: ColourLimits | None = None,
) -> Image.Image:
    """Any image in the frame of a heat map; without `limits` the bar's place stays empty, so that sizes agree."""
    sheet, top = titled_page(PAGE_MARGIN + SIDE + PAGE_MARGIN + BAR + BAR_TEXT, SIDE, title, subtitle)
    pasted(sheet, picture, (PAGE_MARGIN, top, SIDE), smooth=True)
    if limits is not None:
        left = PAGE_MARGIN + SIDE + PAGE_MARGIN
        draw_bar(sheet, (left, top, left + BAR, top + SIDE), cmap, limits)
    return sheet


def draw_bar(sheet: Image.Image, box: tuple[int, int, int, int], cmap: str, limits: ColourLimits) -> None:
    """A vertical color bar in `box` (left, top, right, bottom) with five values beside it; one where all are equal."""
    left, top, right, bottom = box
    strip = Image.fromarray(colour_map(cmap)[::-1].reshape(256, 1, 3).copy())
    sheet.paste(strip.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    framed(sheet, box)
    draw = ImageDraw.Draw(sheet)
    even = not limits.high > limits.low
    for tick in range(1 if even else 5):
        share = tick / 4
        y = round(bottom - 1 - share * (bottom - 1 - top))
        draw.line((right, y, right + 4, y), fill=INK if not even else LINE)
        anchor = "ls" if tick == 0 else "la" if tick == 4 else "lm"
        write_text_on(
            sheet, (right + 8, y), number(limits.low + share * (limits.high - limits.low)), SMALL, anchor=anchor
        )
