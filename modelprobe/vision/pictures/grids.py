"""Many maps of one layer as one image: a square for each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from modelprobe.vision.pictures.canvas import PAGE_MARGIN, SMALL, SOFT, height_of, pasted, titled_page, write_text_on
from modelprobe.vision.pictures.colour import DEFAULT_COLOUR_MAP, ColourLimits, Values, coloured, limits_of
from modelprobe.vision.pictures.heat import BAR, BAR_TEXT, draw_bar

WIDTH = 864
"""The width that the squares of a grid share, in pixels."""

LARGEST, SMALLEST = 208, 56
"""The side of a square."""

GRID_GAP = 6


def channel_grid(
    maps: Sequence[Values],
    captions: Sequence[str],
    title: str,
    subtitle: str = "",
    *,
    cmap: str = DEFAULT_COLOUR_MAP,
    limits: ColourLimits | None = None,
    own: Sequence[ColourLimits] | None = None,
) -> Image.Image:
    """HxW arrays of one size as a grid of squares, each with a caption, under a title.

    With `limits` all share one scale and a color bar stands beside them; without, each has the whole map of colors
    for its `own` range, by default that of its values, which the subtitle should say.
    """
    columns = max(1, min(len(maps), math.ceil(math.sqrt(len(maps)))))
    side = max(SMALLEST, min(LARGEST, (WIDTH - GRID_GAP * (columns - 1)) // columns))
    rows = max(1, -(-len(maps) // columns))
    line = height_of(SMALL)
    step = side + line + GRID_GAP
    wide = max(columns * side + (columns - 1) * GRID_GAP, 420)
    bar = PAGE_MARGIN + BAR + BAR_TEXT if limits is not None else PAGE_MARGIN
    sheet, top = titled_page(PAGE_MARGIN + wide + bar, rows * step - GRID_GAP, title, subtitle)
    for index, (values, caption) in enumerate(zip(maps, captions, strict=True)):
        left, upper = PAGE_MARGIN + (index % columns) * (side + GRID_GAP), top + (index // columns) * step
        scale = limits or (own[index] if own is not None else limits_of(values))
        pasted(sheet, coloured(values, cmap, scale), (left, upper, side))
        write_text_on(sheet, (left + side // 2, upper + side + 1), caption, SMALL, colour=SOFT, width=side, anchor="ma")
    if limits is not None:
        left = PAGE_MARGIN + wide + PAGE_MARGIN
        draw_bar(sheet, (left, top, left + BAR, top + min(rows * step - GRID_GAP - line, 448)), cmap, limits)
    return sheet
