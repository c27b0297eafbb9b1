"""What every layer puts out and how that lies: maps over the image, tokens on a grid, frames, a vector, a matrix.

Where elements lie was followed through the operators (`vision/positions`). Only what that cannot tell is read from
sizes: those of the grids that this very forward pass has elsewhere; a layout found so says it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modelprobe.tracing.tensors import leaves, shape_of
from modelprobe.vision.positions.coordinates import Coordinates, moves
from modelprobe.vision.positions.follow import Positions, unseen
from modelprobe.vision.positions.grid import Grid, grid_of

if TYPE_CHECKING:
    from modelprobe.tracing.module_calls import Running
    from modelprobe.tracing.records import Shape

MAPS, TOKENS, FRAMES, PIECES, VECTOR, MATRIX, NOTHING = (
    "maps",
    "tokens",
    "frames",
    "pieces",
    "vector",
    "matrix",
    "nothing",
)
"""`maps`: rows and columns. `tokens`: the same, from a sequence. `frames`: maps over time. `pieces`: maps of several
samples or parts of the image. `vector`: a number for each channel. `matrix`: positions by channels."""

LARGEST_KEPT = 2**20
"""Numbers of more bytes are read again where the next layer puts out the same."""


@dataclass(frozen=True)
class Layout:
    """How to look at an output. `channels` are its dimensions of channels, `positions` the others above size 1.

    `places` is the grid that the positions form, where they form one. `said` is the layout in letters, `how` where it
    was read from: `operators` means that it was followed, not guessed.
    """

    kind: str
    said: str
    channels: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    places: Grid | None = None
    how: str = "operators"

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns (time or pieces in front), none for what has no grid."""
        return self.places.sizes if self.places is not None else ()

    @property
    def covers(self) -> bool:
        """Whether its maps lie over the whole image."""
        return self.places is not None and self.places.on_image and self.kind in (MAPS, TOKENS, FRAMES)

    def describe(self) -> str:
        """`NCHW`, `NHWC`, `tokens 14x14 + 1`."""
        guess = "" if self.how == "operators" else f" (by {self.how})"
        return f"{self.said}{guess}"


@dataclass(frozen=True)
class LayerOutput:
    """One tensor of one module call: the module's first name, the number of the call, its shape and its layout."""

    path: str
    cls: str
    call: int
    index: int
    shape: Shape
    layout: Layout


@dataclass(frozen=True)
class _Read:
    """What the numbers of one output tell: unknown, or along `over`, and a `grid` or none.

    `derived`: the tensor was made from the inputs, be it known how or not.
    """

    over: tuple[int, ...] = ()
    grid: Grid | None = None
    known: bool = False
    derived: bool = False


class LayerOutputs:
    """Follows a recording (`trace(.., follow=outputs)`); `layouts` then tells of every output of every layer."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str, int, int, Shape, _Read]] = []

    def __call__(self, inputs: Sequence[Tensor], running: Running) -> Positions:
        """A context for a forward with these inputs; what another one was told of is forgotten."""
        self._found.clear()
        given = [tensor for tensor in inputs if 0 < tensor.dim() <= 5 and tensor.numel()]
        coordinates = Coordinates.scaled([tensor.shape for tensor in given])
        positions = Positions(given, coordinates, restart=True, keep_attention=False)
        self._images = any(tensor.dim() > 3 for tensor in given)
        calls: Counter[str] = Counter()
        # What passes through several modules keeps its numbers: they are read once.
        reads: dict[Any, tuple[Tensor, _Read]] = {}

        def ended(path: str, cls: str, output: Any) -> None:
            calls[path] += 1
            for index, (_, tensor) in enumerate(leaves(output) if path else ()):
                place = positions.place(tensor)
                read = _Read(derived=positions.derived(tensor))
                if place is not None:
                    numbers = place.numbers
                    key = numbers.data_ptr(), numbers.shape, numbers.stride()
                    if key in reads:
                        read = reads[key][1]
                    else:
                        with unseen():
                            read = self._read(numbers, coordinates)
                        if numbers.untyped_storage().nbytes() <= LARGEST_KEPT:
                            reads[key] = numbers, read
                self._found.append((path, cls, calls[path], index, shape_of(tensor), read))

        running.ended = ended
        return positions

    def _read(self, numbers: Tensor, coordinates: Coordinates) -> _Read:
        grid = grid_of(numbers, coordinates)
        over = tuple(dim for dim in range(numbers.dim()) if moves(numbers, dim)) if grid is None else grid.over
        if not self._images and grid is not None and grid.on_image and (len(over) == 1 or numbers.dim() < 4):
            return _Read(over[:1], None, True)  # a sequence, whose elements are channels
        return _Read(over, grid, True)

    def layouts(self) -> tuple[LayerOutput, ...]:
        """Every tensor that every module call put out, in the order in which the calls ended.

        A module under several names has the first of them here, and its calls under all of them are numbered together.
        """
        grids = {read.grid.sizes: None for *_, read in self._found if read.grid is not None}
        return tuple(
            LayerOutput(path, cls, call, index, shape, _layout(shape, read, grids))
            for path, cls, call, index, shape, read in self._found
        )


def _layout(shape: Shape, read: _Read, grids: Mapping[tuple[int, ...], None]) -> Layout:
    free = tuple(dim for dim, size in enumerate(shape) if size > 1)
    if 0 in shape or not shape:
        return Layout(NOTHING if shape else VECTOR, "empty" if shape else "scalar")
    if not read.known:
        return guessed_layout(shape, grids if read.derived else ())
    if not read.over:
        return Layout(VECTOR, _no_place(shape), free)
    channels = tuple(dim for dim in free if dim not in read.over)
    if read.grid is None and not channels:
        return Layout(VECTOR, "values", free)  # a map that was flattened
    if read.grid is None:
        guess = guessed_layout(shape, grids)
        fits = guess.positions == read.over and guess.places is not None
        return guess if fits else Layout(MATRIX, "positions", channels, read.over)
    kind = TOKENS if read.grid.layout.startswith("tokens") else MAPS
    if len(read.grid.sizes) > 2:
        kind = FRAMES if read.grid.frames else PIECES
    return Layout(kind, read.grid.layout, channels, read.over, read.grid)


def _no_place(shape: Shape) -> str:
    if len(shape) == 4 and prod(shape) in (shape[1], shape[3]) and prod(shape) > 1:
        return "NCHW" if prod(shape) == shape[1] else "NHWC"
    return "channels"


def guessed_layout(shape: Shape, grids: Iterable[tuple[int, ...]]) -> Layout:
    """The layout of a tensor of which only the shape is known, and the grids of its forward pass."""
    free = tuple(dim for dim, size in enumerate(shape) if size > 1)
    if 0 in shape or not shape:
        return Layout(NOTHING if shape else VECTOR, "empty" if shape else "scalar")
    if len(free) < 2:
        return Layout(VECTOR, "channels" if free else "values", free)
    plain = [grid for grid in grids if len(grid) == 2]
    if len(free) == 2:
        for dim, other in ((free[0], free[1]), (free[1], free[0])):
            found = _grid_of_size(shape, dim, plain)
            if found is not None and _grid_of_size(shape, other, plain) is None:
                return Layout(TOKENS, found.layout, (other,), (dim,), found, how="size")
        return Layout(MATRIX, "positions", (free[1],), (free[0],), how="order")
    for space in (free[-2:], free[-3:-1]):
        rest = tuple(dim for dim in free if dim not in space)
        size = shape[space[0]], shape[space[1]]
        if size in plain and len(rest) == 1:
            found = Grid(size, space, torch.arange(prod(size)), shape, letters="HW")
            return Layout(MAPS, found.layout, rest, space, found, how="size")
    return Layout(MATRIX, "positions", (free[-1],), free[:-1], how="order")


def _grid_of_size(shape: Shape, dim: int, grids: Iterable[tuple[int, ...]]) -> Grid | None:
    """A sequence along `dim`, behind a batch, as one of `grids`; None where none has as many places."""
    sizes = next((sizes for sizes in grids if prod(sizes) == shape[dim] and len(shape) > 2), None)
    return None if sizes is None else Grid(sizes, (dim,), torch.arange(shape[dim]), shape, letters="?")
