"""A layer's output as arrays that can be drawn: a map for each channel, their mean, frames, or numbers in a row."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modelprobe.vision.features.outputs import FRAMES, NOTHING, PIECES, VECTOR, Layout
from modelprobe.vision.features.stats import plain_values

FloatArray = NDArray[Any]

MAX_MAP_SIDE = 1024
"""A matrix with more rows or columns is drawn with every n-th of them alone."""


@dataclass(frozen=True)
class LayerMaps:
    """`channels` is CxHxW: a map for each channel. `frames` is TxHxW: their mean for each frame, where there are some.

    For a vector `row` holds one number for each channel and there are no maps. `covers` tells whether a map lies over
    the whole image. `unit` names what `channels` numbers. Of a matrix only every `thinned`-th row and column is left.
    """

    channels: FloatArray
    frames: FloatArray
    row: FloatArray
    covers: bool
    unit: str = "channel"
    thinned: int = 1

    @property
    def mean(self) -> FloatArray:
        """HxW: the mean over the channels, of those of its values that are finite."""
        return finite_mean(self.channels)


def finite_mean(stack: FloatArray) -> FloatArray:
    """The mean over the first axis; where a value is not finite, over the others; NaN where none is."""
    good = np.isfinite(stack)
    if good.all():
        mean: FloatArray = stack.mean(axis=0, dtype=np.float64)
        return mean
    total = np.where(good, stack, 0.0).sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        some: FloatArray = total / good.sum(axis=0)
    return some


NO_MAPS: FloatArray = np.zeros((0, 0, 0), dtype=np.float32)
NO_ROW: FloatArray = np.zeros(0, dtype=np.float32)


def layer_maps(tensor: Tensor, layout: Layout) -> LayerMaps:
    """The tensor of one image, arranged as its layout says. Raises ValueError when it is of another shape."""
    values = plain_values(tensor)
    if layout.kind == NOTHING:
        return LayerMaps(NO_MAPS, NO_MAPS, NO_ROW, False)
    if layout.kind == VECTOR:
        return LayerMaps(NO_MAPS, NO_MAPS, values.reshape(-1).numpy(), False)
    if layout.places is None:
        matrix = _positions_by_channels(values, layout)
        thin = max(1, -(-max(matrix.shape) // MAX_MAP_SIDE))
        return LayerMaps(matrix[None, ::thin, ::thin].numpy(), NO_MAPS, NO_ROW, False, "matrix", thin)
    if tuple(values.shape) != layout.places.shape:
        raise ValueError(f"{tuple(values.shape)} is not laid out as {layout.said}")
    stack: FloatArray = layout.places.gather(values).numpy()
    if layout.kind == FRAMES:
        return LayerMaps(stack.mean(axis=1), finite_mean(stack), NO_ROW, layout.covers)
    if layout.kind == PIECES:
        return LayerMaps(finite_mean(stack.reshape(-1, *stack.shape[1:])), NO_MAPS, NO_ROW, False, "piece")
    return LayerMaps(stack, NO_MAPS, NO_ROW, layout.covers, "channel" if layout.channels else "map")


def _positions_by_channels(values: Tensor, layout: Layout) -> Tensor:
    """Positions x channels, in this order."""
    order = (*layout.positions, *layout.channels)
    if any(size != 1 for dim, size in enumerate(values.shape) if dim not in order) or max(order) >= values.dim():
        raise ValueError(f"{tuple(values.shape)} is not laid out as {layout.said}")
    rest = tuple(dim for dim in range(values.dim()) if dim not in order)
    count = prod(values.shape[dim] for dim in layout.positions)
    return values.permute(*rest, *order).reshape(count, -1)


def order_of(channels: FloatArray, sort: str) -> list[int]:
    """The channels by `index`, or with the largest `variance` or `max` first; those without a finite value last."""
    if sort == "index":
        return list(range(len(channels)))
    flat = channels.reshape(len(channels), -1)
    good = np.where(np.isfinite(flat), flat, np.nan)
    empty = ~np.isfinite(flat).any(axis=1)
    good[empty] = 0.0
    keys = np.nanvar(good, axis=1) if sort == "variance" else np.nanmax(good, axis=1)
    keys[empty] = -np.inf
    return [int(index) for index in np.argsort(-keys, kind="stable")]
