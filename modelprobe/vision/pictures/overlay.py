"""A map of numbers laid over the image that it belongs to."""

from __future__ import annotations

import numpy as np
from PIL import Image

from modelprobe.vision.pictures.colour import DEFAULT_COLOUR_MAP, ColourLimits, Values, coloured, to_unit

SHARE = 0.55
"""How much of the colors and how much of the image is seen."""


def overlay(
    photo: Image.Image,
    values: Values,
    *,
    cmap: str = DEFAULT_COLOUR_MAP,
    share: float = SHARE,
    limits: ColourLimits | None = None,
    fade: bool = False,
) -> Image.Image:
    """The HxW map over the image, stretched to its size and smoothed in between; RGB, of the image's size.

    The image is made gray below, so that its colors are not taken for the map's. With `fade` small values let
    more of it through. Values that are not finite count as the smallest.
    """
    unit = np.nan_to_num(to_unit(values, limits), nan=0.0, posinf=0.0, neginf=0.0)
    smooth = np.asarray(Image.fromarray(unit).resize(photo.size, Image.Resampling.BILINEAR))
    colours = np.asarray(coloured(smooth, cmap, ColourLimits(0.0, 1.0)), dtype=np.float32)
    below = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    weight = share * (0.25 + 0.75 * smooth[..., None]) if fade else np.float32(share)
    mixed = below * (1 - weight) + colours * weight
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
