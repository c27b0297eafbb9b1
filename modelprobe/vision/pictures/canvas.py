"""White pages with text in one typeface, from which grids, heat maps and comparisons are put together."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, SOFT, LINE = (255, 255, 255), (28, 32, 38), (100, 108, 120), (205, 210, 218)
PAGE_MARGIN = 12
TITLE, LABEL, SMALL = 17, 13, 11
"""Sizes of type in pixels."""

DOTS = "…"


@functools.cache
def font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib carries and which has most scripts; Pillow's own where it is not found."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
    except OSError:
        return ImageFont.load_default(size)


def width_of(text: str, size: int, bold: bool = False) -> int:
    """Pixels that one line of text takes."""
    return round(float(font(size, bold).getlength(text)))


def height_of(size: int) -> int:
    """Pixels from one line of text to the next."""
    return round(size * 1.35)


def shortened(text: str, width: int, size: int, bold: bool = False) -> str:
    """`text`, cut in the middle and the cut shown, so that it takes at most `width` pixels."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    if width_of(text, size, bold) <= width:
        return text
    low, high = 0, len(text)  # characters kept
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(_cut_text(text, middle), size, bold) <= width else (low, middle - 1)
    return _cut_text(text, low)


def _cut_text(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}{DOTS}{text[len(text) - kept // 2 :] if kept // 2 else ''}"


def blank_page(width: int, height: int) -> Image.Image:
    """An empty page."""
    return Image.new("RGB", (width, height), PAPER)


def titled_page(width: int, height: int, title: str, subtitle: str) -> tuple[Image.Image, int]:
    """A page with two lines of text at its top, for so many pixels of content; and where that begins."""
    top = PAGE_MARGIN + height_of(TITLE) + height_of(SMALL) + 8
    page = blank_page(width, top + height + PAGE_MARGIN)
    wide = width - 2 * PAGE_MARGIN
    write_text_on(page, (PAGE_MARGIN, PAGE_MARGIN), title, TITLE, bold=True, width=wide)
    write_text_on(page, (PAGE_MARGIN, PAGE_MARGIN + height_of(TITLE) + 1), subtitle, SMALL, colour=SOFT, width=wide)
    return page, top


def pasted(page: Image.Image, picture: Image.Image, box: tuple[int, int, int], *, smooth: bool = False) -> None:
    """The picture in the middle of a square at `box` (left, top, side), as large as fits, with a frame."""
    left, top, side = box
    small = fitted_text(picture, (side, side), smooth=smooth)
    x, y = left + (side - small.width) // 2, top + (side - small.height) // 2
    page.paste(small, (x, y))
    framed(page, (x, y, x + small.width, y + small.height))


def write_text_on(
    target: Image.Image,
    place: tuple[int, int],
    text: str,
    size: int = LABEL,
    *,
    width: int | None = None,
    bold: bool = False,
    colour: tuple[int, int, int] = INK,
    anchor: str = "la",
) -> None:
    """One line of text at `place`, shortened to `width`. Anchors are Pillow's: `la` top left, `ma` top center, ...."""
    shown = shortened(text, width, size, bold) if width is not None else text
    ImageDraw.Draw(target).text(place, shown, fill=colour, font=font(size, bold), anchor=anchor)


def framed(target: Image.Image, box: tuple[int, int, int, int]) -> None:
    """A thin line around an image that was pasted at `box` (left, top, right, bottom)."""
    ImageDraw.Draw(target).rectangle((box[0] - 1, box[1] - 1, box[2], box[3]), outline=LINE)


def number(value: float) -> str:
    """A value for a color bar: three significant digits, the way people write them."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def fitted_text(picture: Image.Image, box: tuple[int, int], *, smooth: bool = False) -> Image.Image:
    """The image as large as fits into `box` (width, height), its aspect kept, no side under one pixel.

    Enlarged by repeating pixels, unless `smooth`: a feature map has as many values as it has squares.
    """
    scale = min(box[0] / picture.width, box[1] / picture.height)
    if not smooth and scale > 1:
        scale = max(1.0, float(int(scale))) if scale >= 4 else scale
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    method = Image.Resampling.NEAREST if scale > 1 and not smooth else Image.Resampling.BICUBIC
    return picture if size == picture.size else picture.resize(size, method)


WARNING_RED = (190, 30, 30)


def png(picture: Image.Image, stamp: str = "") -> bytes:
    """The image as a PNG file; with a `stamp` in red below it, which whoever is sent the image alone sees too."""
    if stamp:
        page = blank_page(picture.width, picture.height + height_of(LABEL) + 8)
        page.paste(picture, (0, 0))
        place = PAGE_MARGIN, picture.height + 2
        write_text_on(page, place, stamp, LABEL, bold=True, colour=WARNING_RED, width=page.width - 2 * PAGE_MARGIN)
        picture = page
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=6)
    return out.getvalue()


def side_by_side(
    pictures: Sequence[tuple[str, Image.Image]], title: str = "", *, columns: int = 4, cell: int = 320
) -> Image.Image:
    """Captioned images in rows of equal cells under one title: comparisons of methods, targets, layers."""
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    top = PAGE_MARGIN + (height_of(TITLE) + 6 if title else 0)
    step = cell + PAGE_MARGIN, cell + height_of(LABEL) + 6 + PAGE_MARGIN
    sheet = blank_page(PAGE_MARGIN + columns * step[0], top + rows * step[1])
    if title:
        write_text_on(sheet, (PAGE_MARGIN, PAGE_MARGIN), title, TITLE, bold=True, width=sheet.width - 2 * PAGE_MARGIN)
    for number_, (caption, picture) in enumerate(pictures):
        left, upper = PAGE_MARGIN + (number_ % columns) * step[0], top + (number_ // columns) * step[1]
        write_text_on(sheet, (left, upper), caption, LABEL, width=cell)
        pasted(sheet, picture, (left, upper + height_of(LABEL) + 6, cell), smooth=True)
    return sheet
