"""Numbers in a row, with no place in the image: a strip of bars, one for each channel."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from modelprobe.vision.pictures.canvas import (
    INK,
    LINE,
    PAGE_MARGIN,
    PAPER,
    SMALL,
    SOFT,
    TITLE,
    blank_page,
    height_of,
    number,
    width_of,
    write_text_on,
)
from modelprobe.vision.pictures.colour import DEFAULT_COLOUR_MAP, MISSING, ColourLimits, Values, colour_map, limits_of

WIDTH, HEIGHT = 768, 220
"""The field that bars are drawn in, in pixels."""


def bar_strip(values: Values, title: str, subtitle: str = "", *, cmap: str = DEFAULT_COLOUR_MAP) -> Image.Image:
    """A vector as bars from zero, in colors; an axis of values at the left, the first and last index below.

    Of more values than pixels the largest and the smallest of each pixel are drawn. NaN and infinities are magenta.
    """
    limits = limits_of(values)
    low, high = min(0.0, limits.low), max(0.0, limits.high)
    high = high if high > low else low + 1.0
    labels = [number(value) for value in dict.fromkeys((high, 0.0, low))]
    left = PAGE_MARGIN + max(width_of(label, SMALL) for label in labels) + 8
    top = PAGE_MARGIN + height_of(TITLE) + height_of(SMALL) + 10
    sheet = blank_page(left + WIDTH + PAGE_MARGIN, top + HEIGHT + height_of(SMALL) + PAGE_MARGIN)
    write_text_on(sheet, (PAGE_MARGIN, PAGE_MARGIN), title, TITLE, bold=True, width=sheet.width - 2 * PAGE_MARGIN)
    write_text_on(
        sheet,
        (PAGE_MARGIN, PAGE_MARGIN + height_of(TITLE) + 1),
        subtitle,
        SMALL,
        colour=SOFT,
        width=sheet.width - 2 * PAGE_MARGIN,
    )
    sheet.paste(_bars(values, ColourLimits(low, high), cmap), (left, top))
    draw = ImageDraw.Draw(sheet)
    for value, label in zip(dict.fromkeys((high, 0.0, low)), labels, strict=True):
        y = top + _strip_row(value, ColourLimits(low, high))
        draw.line((left - 4, y, left + (WIDTH if value == 0 else 0), y), fill=INK if value == 0 else LINE)
        anchor = "rs" if value == low and value != 0 else "ra" if value == high and value != 0 else "rm"
        write_text_on(sheet, (left - 6, y), label, SMALL, anchor=anchor)
    write_text_on(sheet, (left, top + HEIGHT + 4), "0", SMALL, colour=SOFT)
    write_text_on(sheet, (left + WIDTH, top + HEIGHT + 4), f"{len(values) - 1}", SMALL, colour=SOFT, anchor="ra")
    return sheet


def _strip_row(value: float, limits: ColourLimits) -> int:
    return round((limits.high - value) / (limits.high - limits.low) * (HEIGHT - 1))


def _bars(values: Values, limits: ColourLimits, cmap: str) -> Image.Image:
    field = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(field)
    table = colour_map(cmap)
    zero = _strip_row(0.0, limits)
    for left, right, part in _columns(values):
        good = part[np.isfinite(part)]
        if len(good) < len(part):
            draw.rectangle((left, 0, right, HEIGHT - 1), fill=MISSING)
        for value in {float(good.max()), float(good.min())} if len(good) else ():
            share = (value - limits.low) / (limits.high - limits.low)
            colour = tuple(int(channel) for channel in table[round(share * 255)])
            y = _strip_row(value, limits)
            draw.rectangle((left, min(y, zero), right, max(y, zero)), fill=colour)
    return field


def _columns(values: Values) -> list[tuple[int, int, Values]]:
    """Left and right pixel of each bar, and the values that it stands for."""
    count = len(values)
    if count > WIDTH:
        edges = np.linspace(0, count, WIDTH + 1).round().astype(int)
        return [(x, x, values[edges[x] : edges[x + 1]]) for x in range(WIDTH)]
    edges = np.linspace(0, WIDTH, count + 1).round().astype(int)
    gap = 1 if WIDTH / max(1, count) >= 4 else 0
    return [(int(edges[i]), int(edges[i + 1]) - 1 - gap, values[i : i + 1]) for i in range(count)]
