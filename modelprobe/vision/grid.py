"""The grid of image positions that the elements of an activation form, read from the pixel numbers of `positions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A one-to-one map between some elements of a tensor and a grid of h x w places of the image.

    `over` are the dimensions that positions run along, the others are channels. `order` [h x w] holds for every place,
    row by row, its index among the flattened `over` dimensions; `prefix` counts what has no place (class tokens).
    """

    height: int
    width: int
    over: tuple[int, ...]
    order: Tensor
    prefix: int
    shape: tuple[int, ...]

    def gather(self, tensor: Tensor) -> Tensor:
        """[C, h, w] of a tensor of `shape`: what has no place is left out. Differentiable."""
        flat = self._flat(tensor)
        return flat[self.order.to(flat.device)].T.reshape(-1, self.height, self.width)

    def scatter(self, tensor: Tensor, image: Tensor) -> Tensor:
        """A copy of `tensor` with its places filled from `image` [C, h, w]: the inverse of `gather`."""
        flat = self._flat(tensor)
        filled = flat.index_copy(0, self.order.to(flat.device), image.reshape(len(image), -1).T)
        dims = self._dims()
        back = [dims.index(dim) for dim in range(len(self.shape))]
        return filled.reshape([self.shape[dim] for dim in dims]).permute(back)

    def _dims(self) -> list[int]:
        return [*self.over, *(dim for dim in range(len(self.shape)) if dim not in self.over)]

    def _flat(self, tensor: Tensor) -> Tensor:
        places = 1
        for dim in self.over:
            places *= self.shape[dim]
        return tensor.permute(self._dims()).reshape(places, -1)

    @property
    def layout(self) -> str:
        """The layout in the field's own letters."""
        dims = len(self.shape)
        if dims == 4 and self.over[-2:] == (2, 3) and not self.prefix:
            return "NCHW"
        if dims == 4 and self.over[-2:] == (1, 2) and not self.prefix:
            return "NHWC"
        if dims == 3 and self.over in ((1,), (2,)):
            letters = "tokens, N x C" if self.over == (1,) else "tokens, C x N"
            return f"{letters}, the first {self.prefix} of no place" if self.prefix else letters
        return f"places over dimensions {', '.join(map(str, self.over))}"


def grid_of(numbers: Tensor, width: int) -> Grid | None:
    """The grid that pixel `numbers` of an image `width` pixels wide form, or None: a line, no rectangle, doubles."""
    over = tuple(dim for dim in range(numbers.dim()) if _moves(numbers, dim))
    if not over:
        return None
    index: tuple[Any, ...] = tuple(slice(None) if dim in over else 0 for dim in range(numbers.dim()))
    flat = numbers[index].flatten().long().cpu()
    placed = (flat > 0).nonzero().flatten()
    pixels = flat[placed] - 1
    rows, row = torch.unique(pixels // width, return_inverse=True)
    columns, column = torch.unique(pixels % width, return_inverse=True)
    height, across = len(rows), len(columns)
    cell = row * across + column
    if height * across != len(placed) or min(height, across) < 2 or len(torch.unique(cell)) != len(cell):
        return None
    order = torch.empty_like(placed)
    order[cell] = placed
    with torch.inference_mode(False):
        order = order.clone()  # an inference tensor could not index what has a gradient
    return Grid(height, across, over, order, len(flat) - len(placed), tuple(numbers.shape))


def _moves(numbers: Tensor, dim: int) -> bool:
    """Whether the place changes along a dimension."""
    if numbers.shape[dim] == 1 or numbers.stride(dim) == 0:
        return False
    return bool((numbers.narrow(dim, 0, 1) != numbers).any())
