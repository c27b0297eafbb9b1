"""The grid of image positions that the elements of an activation form, read from the numbers of `positions`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from modelprobe.vision.positions.coordinates import Coordinates, compact, moves

Box = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Grid:
    """A one-to-one map between some elements of a tensor and a grid of places.

    `sizes` are height and width; in front of them frames or pieces, where there is more than one. `over` are the
    dimensions that positions run along, the others are channels. `order` holds for every place of the grid, row by row,
    its index among the flattened `over` dimensions. `before` and `after` count what has no place (class tokens) at both
    ends of the only dimension, `beside` all of it (padding too). `letters` has a letter for each dimension of `over`
    that runs along one side of the grid (N pieces, D frames, H, W), and `?` for any other; `windows` are rows and
    columns of the parts into which the first of two dimensions divides the grid. `on_image` is False where the numbers
    did not come from the input; `frames` tells that the first of three sizes counts them. `box` is the part of the
    image that the grid covers, (first, end) of its rows and columns as shares of the whole; None for all of it.
    """

    sizes: tuple[int, ...]
    over: tuple[int, ...]
    order: Tensor
    shape: tuple[int, ...]
    before: int = 0
    after: int = 0
    beside: int = 0
    letters: str = ""
    windows: tuple[int, int] | None = None
    on_image: bool = True
    frames: bool = False
    box: Box | None = None

    @property
    def height(self) -> int:
        """Rows."""
        return self.sizes[-2]

    @property
    def width(self) -> int:
        """Columns."""
        return self.sizes[-1]

    @property
    def channels(self) -> tuple[int, ...]:
        """The dimensions of more than one element that positions do not run along."""
        return tuple(dim for dim, size in enumerate(self.shape) if size > 1 and dim not in self.over)

    def gather(self, tensor: Tensor) -> Tensor:
        """[C, *sizes] of a tensor of `shape`: what has no place is left out. Differentiable."""
        flat = self._flat(tensor)
        return flat[self.order.to(flat.device)].T.reshape(-1, *self.sizes)

    def scatter(self, tensor: Tensor, image: Tensor) -> Tensor:
        """A copy of `tensor` with its places filled from `image` [C, *sizes]: the inverse of `gather`."""
        flat = self._flat(tensor)
        filled = flat.index_copy(0, self.order.to(flat.device), image.reshape(len(image), -1).T)
        dims = self._dims()
        back = [dims.index(dim) for dim in range(len(self.shape))]
        return filled.reshape([self.shape[dim] for dim in dims]).permute(back)

    def _dims(self) -> list[int]:
        return [*self.over, *(dim for dim in range(len(self.shape)) if dim not in self.over)]

    def _flat(self, tensor: Tensor) -> Tensor:
        return tensor.permute(self._dims()).reshape(prod(self.shape[dim] for dim in self.over), -1)

    @property
    def layout(self) -> str:
        """`NCHW`, `NHWC`, `tokens 14x14 + 1`, `56x56 in 64 windows of 7x7`."""
        dims, channels = len(self.shape), self.channels
        size = "x".join(map(str, self.sizes))
        letters = dict(zip(self.over, self.letters, strict=True))
        if dims >= 4 and "?" not in self.letters and len(channels) <= 1:
            channel = channels[0] if channels else next((d for d in range(dims) if d not in letters and d), 0)
            named = {0: "N", channel: "C", **letters}
            left = [letter for letter in "DHW"[-(dims - 2) :] if letter not in named.values()]
            named.update(
                zip((dim for dim in range(dims) if dim not in named), left, strict=False)
            )  # sides of one place
            if len(named) == dims:
                return "".join(named[dim] for dim in range(dims))
        if len(self.over) == 1:
            return f"tokens {size}" + (f" + {self.beside}" if self.beside else "")
        if self.windows is not None:
            return f"{size} in {self.shape[self.over[0]]} windows of {self.windows[0]}x{self.windows[1]}"
        return f"{size} over dimensions {', '.join(map(str, self.over))}"


def grid_of(numbers: Tensor, coordinates: Coordinates) -> Grid | None:
    """The grid that `numbers` form, or None: fewer than two places, no rectangle, doubles."""
    over = tuple(dim for dim in range(numbers.dim()) if moves(numbers, dim))
    for dims in _candidates(numbers, over):
        index: tuple[Any, ...] = tuple(slice(None) if dim in dims else 0 for dim in range(numbers.dim()))
        found = _rectangle(numbers[index], dims, tuple(numbers.shape), coordinates)
        if found is not None:
            return found
    return None


def _candidates(numbers: Tensor, over: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The dimensions that the place changes along. Where that is all of them, channels may be among them: those of

    several places that were put into one (patches merged), of which the first stands for all.
    """
    if not over:
        return
    yield over
    if all(dim in over or size == 1 for dim, size in enumerate(numbers.shape)):
        for channel in reversed(over):
            rest = tuple(d for d in over if d != channel and moves(numbers.narrow(channel, 0, 1), d))
            if rest:
                yield rest


def _rectangle(numbers: Tensor, over: tuple[int, ...], shape: tuple[int, ...], coordinates: Coordinates) -> Grid | None:
    flat = numbers.flatten()
    placed = (flat > 0).nonzero().flatten()
    if len(placed) < 2:
        return None
    found = coordinates.decode(flat[placed])
    steps = [torch.unique(axis, return_inverse=True) for axis in found]
    sizes = tuple(len(values) for values, _ in steps)
    cell = torch.zeros_like(placed)
    for size, (_, index) in zip(sizes, steps, strict=True):
        cell = cell * size + index
    if prod(sizes) != len(placed) or len(torch.unique(cell)) != len(cell):
        return None
    order = torch.empty_like(placed)
    order[cell] = placed
    with torch.inference_mode(False):
        order = order.clone()  # an inference tensor could not index what has a gradient
    kept = tuple(size for size in sizes[:2] if size > 1)
    line = len(over) == 1 and len(placed) == int(placed[-1] - placed[0]) + 1
    before = int(placed[0]) if line else 0
    return Grid(
        (*kept, *sizes[2:]), over, order, shape, before, len(flat) - len(placed) - before if line else 0,
        len(flat) - len(placed), _letters(numbers, found, placed), _windows(numbers, coordinates),
        int(found[0].max()) < coordinates.samples, sizes[1] > 1 == sizes[0],
        _box(steps[2][0], steps[3][0], coordinates),
    )  # fmt: skip


def _box(rows: Tensor, columns: Tensor, coordinates: Coordinates) -> Box | None:
    """The part of the image that places at these rows and columns cover; None where half a place or less is missing."""
    found, whole = [], True
    for places, size in ((rows, coordinates.rows), (columns, coordinates.columns)):
        if len(places) == 1:  # how large a lone place is, its number does not tell
            found.append((0.0, 1.0))
            continue
        first, last = float(places[0]), float(places[-1])
        step = (last - first) / (len(places) - 1)
        end = min(float(size), last + step)
        whole = whole and max(first, size - end) < step / 2 + 1
        found.append((first / size, end / size))
    return None if whole else (found[0], found[1])


def _letters(numbers: Tensor, found: Tensor, placed: Tensor) -> str:
    """For each dimension the side of the grid that it runs along, `?` where it runs along several or none alone."""
    index = torch.stack(torch.unravel_index(placed, numbers.shape))
    letters = ""
    for dim in range(numbers.dim()):
        along = index[dim]
        sides = ""
        for letter, axis in zip("NDHW", found, strict=True):
            by_index = torch.full((numbers.shape[dim],), -1, dtype=axis.dtype).scatter(0, along, axis)
            if bool((by_index[along] == axis).all()) and bool((axis != axis[0]).any()):
                sides += letter
        letters += sides if len(sides) == 1 else "?"
    return letters if len(set(letters)) == len(letters) else "?" * len(letters)


def _windows(numbers: Tensor, coordinates: Coordinates) -> tuple[int, int] | None:
    """Rows and columns of the parts that the first of two dimensions divides a map into, where each is a rectangle."""
    if numbers.dim() != 2 or not bool((numbers[0] > 0).all()):
        return None
    _, _, rows, columns = (torch.unique(axis) for axis in coordinates.decode(compact(numbers[0])))
    whole = coordinates.decode(numbers[numbers > 0])
    all_rows, all_columns = torch.unique(whole[2]), torch.unique(whole[3])
    if len(rows) * len(columns) != numbers.shape[1] or min(len(rows), len(columns)) < 2:
        return None
    inside = (all_rows >= rows[0]) & (all_rows <= rows[-1]), (all_columns >= columns[0]) & (all_columns <= columns[-1])
    apart = int(inside[0].sum()) != len(rows) or int(inside[1].sum()) != len(columns)
    return None if apart else (len(rows), len(columns))
