"""Principal components of a layer's channels as red, green and blue: places with like features get like colors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def components_as_rgb(channels: NDArray[Any]) -> tuple[NDArray[np.uint8], tuple[float, ...]] | None:
    """HxWx3 bytes of maps CxHxW, and the share of the variance that each of the three components has.

    The places are the observations. Each component is stretched over its own range; its sign is chosen so that the
    largest weight is positive. None for fewer than 3 channels or 4 places, for values that are not finite, and where
    all places are alike.
    """
    count, height, width = channels.shape
    if count < 3 or height * width < 4 or not np.isfinite(channels).all():
        return None
    places = channels.reshape(count, -1).T.astype(np.float64)
    places = places - places.mean(axis=0)
    # eigh of the smaller of both products: a layer of 2,048 channels on 7 x 7 places has 49 components at most
    wide = count > len(places)
    values, vectors = np.linalg.eigh(places @ places.T if wide else places.T @ places)
    total = float(values.clip(0).sum())
    if not total > 0:
        return None
    order = np.argsort(values)[::-1][:3]
    weights = places.T @ vectors[:, order] if wide else vectors[:, order]
    weights = weights / np.maximum(np.linalg.norm(weights, axis=0), np.finfo(float).tiny)
    weights = weights * np.where(weights[np.abs(weights).argmax(axis=0), range(3)] < 0, -1.0, 1.0)
    scores = places @ weights
    low, high = scores.min(axis=0), scores.max(axis=0)
    bytes_ = np.rint((scores - low) / np.where(high > low, high - low, 1) * 255).astype(np.uint8)
    return bytes_.reshape(height, width, 3), tuple(float(max(0.0, values[i])) / total for i in order)
