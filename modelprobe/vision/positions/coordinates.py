"""Numbers for the places of an input, from which sample, frame, row and column can be read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FRAMES, ROWS, COLUMNS = 2**10, 2**14, 2**14
"""The scale of `scaled`. With 2^14 samples a number still is a whole number that float64 holds exactly."""


@dataclass(frozen=True)
class Coordinates:
    """The place (sample, frame, row, column) as one number: 1 + ((sample x frames + frame) x rows + row) x columns +

    column; 0 stands for no place. `samples` counts those of the inputs: a larger one is not of the image.
    """

    frames: int
    rows: int
    columns: int
    samples: int = 1

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return self.frames, self.rows, self.columns

    @property
    def last(self) -> int:
        """The highest number of the inputs."""
        return self.samples * self.frames * self.rows * self.columns

    @classmethod
    def exact(cls, image: Tensor) -> Coordinates:
        """Of one image [1, C, H, W]: a number for each pixel, which counts them row by row."""
        return cls(1, image.shape[-2], image.shape[-1])

    @classmethod
    def scaled(cls, shapes: Sequence[Sequence[int]]) -> Coordinates:
        """Of any inputs, so fine that what a network enlarges still has numbers of its own."""
        sizes = [_places(shape) for shape in shapes]
        largest = [max((size[dim] for size in sizes), default=1) for dim in range(4)]
        return cls(max(FRAMES, largest[1]), max(ROWS, largest[2]), max(COLUMNS, largest[3]), sum(s[0] for s in sizes))

    def numbered(self, shape: Sequence[int], first_sample: int = 0) -> Tensor:
        """Numbers for an input: N x C x T x H x W, N x C x H x W, or N and up to two dimensions of any kind."""
        sizes = _places(shape)
        axes = [torch.arange(sizes[0]) + first_sample]
        axes += [torch.arange(size) * (all_ // size) for size, all_ in zip(sizes[1:], self.sizes, strict=True)]
        grid = torch.meshgrid(*axes, indexing="ij")
        numbers = self.encode(torch.stack(grid)).reshape(sizes[0], 1, *sizes[1:])
        if len(shape) < 4:
            return numbers.reshape(tuple(shape))
        if len(shape) == 4:
            numbers = numbers[:, :, 0]
        return numbers.expand(tuple(shape))

    def encode(self, found: Tensor) -> Tensor:
        """Numbers of places [4, ..] (sample, frame, row, column)."""
        sample, frame, row, column = found.to(torch.float64)
        numbers: Tensor = 1 + ((sample * self.frames + frame) * self.rows + row) * self.columns + column
        return numbers

    def decode(self, numbers: Tensor) -> Tensor:
        """Places [4, ..] of numbers above 0, as whole numbers."""
        left = numbers.long() - 1
        column, left = left % self.columns, left // self.columns
        row, left = left % self.rows, left // self.rows
        return torch.stack([left // self.frames, left % self.frames, row, column])

    def spread(self, numbers: Tensor, sizes: Sequence[int]) -> Tensor:
        """Numbers [N, 1, ..] over as many last dimensions as `sizes` has, resampled to these sizes.

        Of fewer places the nearest is kept; between more of them the steps are divided.
        """
        first = numbers.dim() - len(sizes)
        for dim, size in enumerate(sizes, first):
            old = numbers.shape[dim]
            if size > old:
                numbers = self._divided(numbers, dim, size)
            elif size < old:
                numbers = numbers.index_select(dim, torch.arange(size) * old // size)
        return numbers

    def _divided(self, numbers: Tensor, dim: int, size: int) -> Tensor:
        old = numbers.shape[dim]
        at = torch.arange(size) * old
        low, part = at // size, (at % size) / size
        found = self.decode(numbers).to(torch.float64)
        if old > 1:
            step = found.diff(dim=dim + 1)
            step = torch.cat([step, step.narrow(dim + 1, old - 2, 1)], dim + 1)
        else:  # one place for all there is: the last dimension is columns, the one before rows
            extent = torch.zeros(4, dtype=torch.float64)
            extent[dim - numbers.dim()] = self.sizes[dim - numbers.dim()]
            step = extent.reshape(4, *[1] * numbers.dim()).expand_as(found)
        part = part.reshape(-1, *[1] * (numbers.dim() - dim - 1))
        found = found.index_select(dim + 1, low) + step.index_select(dim + 1, low) * part
        spread = self.encode(found.floor())
        return torch.where(numbers.index_select(dim, low) > 0, spread, 0.0)


def _places(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Samples, frames, rows and columns of an input."""
    if len(shape) == 1:
        return 1, 1, 1, shape[0]
    if len(shape) > 3:
        samples, _, *space = shape
    else:
        samples, *space = shape
    space = [1] * (3 - len(space)) + list(space[-3:])
    return samples, space[0], space[1], space[2]


def compact(numbers: Tensor) -> Tensor:
    """Without the repetitions along dimensions that were only expanded: what is asked of all values is quicker."""
    for dim, step in enumerate(numbers.stride()):
        if step == 0 and numbers.shape[dim] > 1:
            numbers = numbers.narrow(dim, 0, 1)
    return numbers


def moves(numbers: Tensor, dim: int) -> bool:
    """Whether the place changes along a dimension."""
    if numbers.shape[dim] == 1 or numbers.stride(dim) == 0:
        return False
    numbers = compact(numbers)
    return bool((numbers.narrow(dim, 0, 1) != numbers).any())
