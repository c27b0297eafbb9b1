"""A layer's output as arrays that can be drawn: a map for each channel, their mean, frames, or numbers in a row."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modelprobe.vision.features.layouts import FRAMES, MAPS, MATRIX, NOTHING, PIECES, TOKENS, VECTOR, Layout
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
    values: FloatArray = plain_values(tensor).numpy()
    if layout.kind == NOTHING:
        return LayerMaps(NO_MAPS, NO_MAPS, NO_ROW, False)
    if layout.kind == VECTOR:
        return LayerMaps(NO_MAPS, NO_MAPS, values.reshape(-1), False)
    stack = _arranged(values, layout)
    if layout.kind == MATRIX:
        thin = max(1, -(-max(stack.shape[0], stack.shape[2]) // MAX_MAP_SIDE))
        return LayerMaps(stack[::thin, 0, ::thin].T[None], NO_MAPS, NO_ROW, False, "matrix", thin)
    count, pieces = stack.shape[:2]
    if layout.kind in (TOKENS, FRAMES) and len(layout.space) == 1:
        stack = stack[:, :, layout.before : stack.shape[2] - layout.after]
    stack = stack.reshape(count, pieces, *layout.grid)
    if layout.kind == FRAMES:
        frames = stack[:, 0]
        return LayerMaps(frames.mean(axis=1), finite_mean(frames), NO_ROW, layout.covers)
    if layout.kind == PIECES and pieces > 1:
        return _pieced(stack, layout)
    assert layout.kind in (MAPS, TOKENS, PIECES)
    return LayerMaps(stack[:, 0], NO_MAPS, NO_ROW, layout.covers, "channel" if layout.channels else "map")


def _arranged(values: FloatArray, layout: Layout) -> FloatArray:
    """Channels x pieces x space, in this order."""
    order = (*layout.channels, *layout.pieces, *layout.space)
    rest = tuple(dim for dim in range(values.ndim) if dim not in order)
    if any(values.shape[dim] != 1 for dim in rest):
        raise ValueError(f"{values.shape} is not laid out as {layout.said}")
    sizes = [prod(values.shape[dim] for dim in group) for group in (layout.channels, layout.pieces)]
    arranged: FloatArray = values.transpose(*rest, *order).reshape(*sizes, *(values.shape[dim] for dim in layout.space))
    return arranged


def _pieced(stack: FloatArray, layout: Layout) -> LayerMaps:
    """Windows put side by side as they were cut, where that is known; else a map for each piece."""
    count, pieces, height, width = stack.shape
    if len(layout.tiles) == 2 and prod(layout.tiles) == pieces:
        rows, columns = layout.tiles
        whole = stack.reshape(count, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
        return LayerMaps(whole.reshape(count, rows * height, columns * width), NO_MAPS, NO_ROW, False)
    return LayerMaps(finite_mean(stack), NO_MAPS, NO_ROW, False, "piece")


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
