"""One map of numbers as a picture: its values in colours, a title, and a bar that says which colour is which value."""

from __future__ import annotations

from PIL import Image, ImageDraw

from modelprobe.vision.pictures.canvas import (
    INK,
    LINE,
    MARGIN,
    SMALL,
    SOFT,
    TITLE,
    fitted,
    frame,
    height_of,
    number,
    page,
    write,
)
from modelprobe.vision.pictures.colour import DEFAULT, Limits, Values, colour_map, coloured, limits_of

SIDE = 448
"""The square that a map is drawn into, in pixels: every heat map of a run has one size."""

BAR, BAR_TEXT = 18, 74
"""Width of the colour bar and of its numbers."""


def heat_map(
    values: Values, title: str, subtitle: str = "", *, cmap: str = DEFAULT, limits: Limits | None = None
) -> Image.Image:
    """An HxW array as a picture with title and colour bar, always of the same size.

    Each value is a square, not smoothed. `limits` fixes what the ends of the bar mean, to compare pictures.
    """
    limits = limits or limits_of(values)
    picture = fitted(coloured(values, cmap, limits), (SIDE, SIDE))
    return with_bar(picture, title, subtitle, cmap=cmap, limits=limits)


def with_bar(
    picture: Image.Image, title: str, subtitle: str = "", *, cmap: str = DEFAULT, limits: Limits | None = None
) -> Image.Image:
    """Any picture in the frame of a heat map; without `limits` the bar's place stays empty, so that sizes agree."""
    top = MARGIN + height_of(TITLE) + height_of(SMALL) + 8
    sheet = page(MARGIN + SIDE + MARGIN + BAR + BAR_TEXT, top + SIDE + MARGIN)
    wide = sheet.width - 2 * MARGIN
    write(sheet, (MARGIN, MARGIN), title, TITLE, bold=True, width=wide)
    write(sheet, (MARGIN, MARGIN + height_of(TITLE) + 1), subtitle, SMALL, colour=SOFT, width=wide)
    small = fitted(picture, (SIDE, SIDE), smooth=True)
    place = MARGIN + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2
    sheet.paste(small, place)
    frame(sheet, (*place, place[0] + small.width, place[1] + small.height))
    if limits is not None:
        draw_bar(sheet, (MARGIN + SIDE + MARGIN, top, MARGIN + SIDE + MARGIN + BAR, top + SIDE), cmap, limits)
    return sheet


def draw_bar(sheet: Image.Image, box: tuple[int, int, int, int], cmap: str, limits: Limits) -> None:
    """A vertical colour bar in `box` (left, top, right, bottom) with five values beside it; one where all are equal."""
    left, top, right, bottom = box
    strip = Image.fromarray(colour_map(cmap)[::-1].reshape(256, 1, 3).copy())
    sheet.paste(strip.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    frame(sheet, box)
    draw = ImageDraw.Draw(sheet)
    even = not limits.high > limits.low
    for tick in range(1 if even else 5):
        share = tick / 4
        y = round(bottom - 1 - share * (bottom - 1 - top))
        draw.line((right, y, right + 4, y), fill=INK if not even else LINE)
        anchor = "ls" if tick == 0 else "la" if tick == 4 else "lm"
        write(sheet, (right + 8, y), number(limits.low + share * (limits.high - limits.low)), SMALL, anchor=anchor)
