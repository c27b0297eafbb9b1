"""Principal components of a layer's channels as red, green and blue: like features get like colors, in all images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelprobe.vision.pictures.canvas import fitted_text
from modelprobe.vision.pictures.heat import SIDE, with_bar

FEWEST_CHANNELS, FEWEST_PLACES = 3, 4


@dataclass(frozen=True)
class ColourBasis:
    """The mean [C] of a layer's features, its first three `axes` [C, 3], and the range of each over all images.

    `shares` are those of the variance.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    shares: tuple[float, ...]

    def as_rgb(self, channels: NDArray[Any]) -> NDArray[np.uint8]:
        """HxWx3 bytes of maps CxHxW."""
        share = ((_observations(channels) - self.mean) @ self.axes - self.low) / np.where(
            self.high > self.low, self.high - self.low, 1
        )
        bytes_ = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
        return bytes_.reshape(*channels.shape[1:], 3)


def _observations(channels: NDArray[Any]) -> NDArray[np.float64]:
    """A row for each place."""
    rows: NDArray[np.float64] = channels.reshape(len(channels), -1).T.astype(np.float64)
    return rows


def _finite(stacks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float64]]:
    yield from (_observations(channels) for channels in stacks if np.isfinite(channels).all())


def colour_basis(stacks: Sequence[NDArray[Any]]) -> ColourBasis | None:
    """The basis of maps CxHxW of one layer, read twice: all places of all images are the observations.

    The sign of an axis is chosen so that its largest weight is positive. Maps with values that are not finite are left
    out; None where nothing else is there, or all places are alike.
    """
    count, sums, products = 0, np.zeros(1), np.zeros((1, 1))
    for rows in _finite(stacks):
        count, sums, products = count + len(rows), sums + rows.sum(0), products + rows.T @ rows
    if not count:
        return None
    mean = sums / count
    spread = products - count * np.outer(mean, mean)
    values, vectors = np.linalg.eigh(spread)
    if not values[-1] > 1e-12 * max(float(np.trace(products)), np.finfo(float).tiny):
        return None
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(3)] < 0, -1.0, 1.0)
    shares = tuple(float(max(0.0, value) / values.clip(0).sum()) for value in values[::-1][:3])
    ends = [(scores.min(0), scores.max(0)) for scores in ((rows - mean) @ axes for rows in _finite(stacks))]
    low, high = np.min([end[0] for end in ends], axis=0), np.max([end[1] for end in ends], axis=0)
    return ColourBasis(mean, axes, low, high, shares)


def components_picture(channels: NDArray[Any], basis: ColourBasis, name: str, about: str) -> Image.Image:
    """The colors of one image, in the frame of a heat map."""
    shares = ", ".join(f"{share:.0%}" for share in basis.shares)
    picture = fitted_text(Image.fromarray(basis.as_rgb(channels)), (SIDE, SIDE))
    return with_bar(picture, f"{name}: principal components", f"{shares} of variance; {about}")


class StoredMaps(Sequence[NDArray[Any]]):
    """Maps in .npy files, each read when it is asked for: a directory of images need not fit in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: Any) -> Any:
        return np.load(self.files[at], allow_pickle=False)
