"""Numbers in a row, with no place in the image: a strip of bars, one for each channel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from modelprobe.vision.pictures.canvas import PAGE_MARGIN, titled_page
from modelprobe.vision.pictures.colour import DEFAULT_COLOUR_MAP, MISSING, ColourLimits, Values, coloured, limits_of

WIDTH, HEIGHT, DPI = 864, 260, 100
"""The field that bars are drawn in with their axes, in pixels."""


def bar_strip(
    values: Values,
    title: str,
    subtitle: str = "",
    *,
    cmap: str = DEFAULT_COLOUR_MAP,
    limits: ColourLimits | None = None,
) -> Image.Image:
    """A vector as bars from zero, in colors, with axes of indices and values. NaN and infinities are magenta."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    good = np.isfinite(values)
    span, limits = limits_of(values), limits or limits_of(values)
    low, high = min(0.0, span.low), max(0.0, span.high)
    high = high if high > low else low + 1.0
    shown = np.where(good, values, 0.0)
    if limits.low == -limits.high:  # heights tell how much: colors tell the sign
        shown = np.sign(shown) * 0.7 * limits.high
    colours = np.asarray(coloured(shown[None], cmap, limits))[0] / 255
    index = np.arange(len(values))
    width = max(0.8, min(24.0, 560 / max(1, len(values)) * 0.7))  # in points
    axes.vlines(index[good], 0, values[good], colors=colours[good], linewidth=width)
    axes.vlines(index[~good], low, high, colors=np.array(MISSING) / 255, linewidth=width)
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    sheet, top = titled_page(WIDTH, HEIGHT - PAGE_MARGIN, title, subtitle)
    sheet.paste(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), (0, top))
    return sheet
