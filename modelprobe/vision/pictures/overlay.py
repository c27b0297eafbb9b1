"""A map of numbers laid over the image that it belongs to."""

from __future__ import annotations

import numpy as np
from PIL import Image

from modelprobe.vision.pictures.colour import DEFAULT_COLOUR_MAP, ColourLimits, Values, coloured, to_unit

SHARE = 0.75
"""How much of the image the map's colors hide, at most."""

GREY_BELOW = 0.5
"""How much of its own colors the image loses where the map's are strongest: they shall not be taken for each other."""


def overlay(
    photo: Image.Image,
    values: Values,
    *,
    cmap: str = DEFAULT_COLOUR_MAP,
    limits: ColourLimits | None = None,
    centered: bool = False,
) -> Image.Image:
    """The HxW map over the image, stretched to its size and smoothed in between; RGB, of the image's size.

    Where the map is low (with `centered`, near the middle of the limits), the image keeps its own colors. Values that
    are not finite count as the smallest.
    """
    unit = np.nan_to_num(to_unit(values, limits), nan=0.0, posinf=0.0, neginf=0.0)
    smooth = np.asarray(Image.fromarray(unit).resize(photo.size, Image.Resampling.BILINEAR))
    colours = np.asarray(coloured(smooth, cmap, ColourLimits(0.0, 1.0)), dtype=np.float32)
    strength = np.abs(2 * smooth - 1)[..., None] if centered else smooth[..., None]
    gray = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    below = np.asarray(photo.convert("RGB"), dtype=np.float32)
    below = below + (gray - below) * GREY_BELOW * strength
    weight = SHARE * np.minimum(1, 1.5 * strength)
    mixed = below * (1 - weight) + colours * weight
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
