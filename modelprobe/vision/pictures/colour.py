"""Numbers to colors: matplotlib's color maps, as tables of 256 colors, and one rule for limits and NaN."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelprobe.errors import BadInput

DEFAULT_COLOUR_MAP, DIVERGING = "viridis", "RdBu_r"
AUTO = "auto"
"""`DIVERGING` around 0 for values of both signs, else the default."""

MISSING = (255, 0, 255)
"""NaN and infinities: magenta, which no color map in common use has."""

Values = NDArray[Any]


@dataclass(frozen=True)
class ColourLimits:
    """The values that the two ends of a color map stand for."""

    low: float
    high: float


@functools.cache
def colour_map(name: str = DEFAULT_COLOUR_MAP) -> NDArray[np.uint8]:
    """The 256 colors of a map of matplotlib's, 256x3. Raises BadInput for an unknown name, with the nearest."""
    from matplotlib import colormaps

    if name not in colormaps:
        close = difflib.get_close_matches(name.lower(), list(colormaps), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "for example viridis, jet, magma or gray"
        raise BadInput(f"there is no color map {name!r}", hint)
    table = colormaps[name](np.linspace(0.0, 1.0, 256), bytes=True)[:, :3].copy()
    table.setflags(write=False)  # it is cached
    return table  # type: ignore[no-any-return]


def limits_of(values: Values) -> ColourLimits:
    """Smallest and largest finite value; 0 and 0 where there is none."""
    finite = values[np.isfinite(values)]
    return ColourLimits(float(finite.min()), float(finite.max())) if finite.size else ColourLimits(0.0, 0.0)


def scale_of(values: Values, cmap: str) -> tuple[str, ColourLimits]:
    """The color map and its limits for values: what is asked for; of `AUTO` around 0 where values are negative."""
    limits = limits_of(values)
    if cmap != AUTO or limits.low >= 0:
        return DEFAULT_COLOUR_MAP if cmap == AUTO else cmap, limits
    most = max(-limits.low, limits.high)
    return DIVERGING, ColourLimits(-most, most)


def to_unit(values: Values, limits: ColourLimits | None = None) -> Values:
    """`values` from the limits (by default their own) to 0..1 as float32, cut off there; all 0 where the two are equal.

    NaN and infinities stay, for `coloured` to show.
    """
    limits = limits or limits_of(values)
    span = limits.high - limits.low
    wide: Values = values.astype(np.float64)
    if not span > 0:
        return np.where(np.isfinite(wide), 0.0, wide).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (wide - limits.low) / span
    return np.where(np.isfinite(wide), np.clip(scaled, 0.0, 1.0), wide).astype(np.float32)


def coloured(values: Values, cmap: str = DEFAULT_COLOUR_MAP, limits: ColourLimits | None = None) -> Image.Image:
    """An HxW array as an RGB image of W x H pixels."""
    table = colour_map(cmap)
    unit = to_unit(values, limits)
    wrong = ~np.isfinite(unit)
    index = np.rint(np.where(wrong, 0.0, unit) * 255).astype(np.uint8)
    pixels = table[index]
    pixels[wrong] = MISSING
    return Image.fromarray(np.ascontiguousarray(pixels))
