"""The layout of a layer's output: maps over the image, tokens on a grid, frames, a vector, a matrix.

Axes come from the ledger (`axes.py`). What the ledger does not tell is read from sizes: those of the grids that this
very forward pass has elsewhere, and nothing else; a layout found so says it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from modelprobe.tracing.records import ModuleCall, Shape, Trace, numel
from modelprobe.vision.features.axes import (
    BATCH,
    CHANNEL,
    COLUMN,
    FRAME,
    GROUP,
    INNER_COLUMN,
    INNER_ROW,
    ROW,
    TOKEN,
    UNKNOWN,
    WINDOW,
    WINDOWS,
    Axes,
    Axis,
    followed,
)

MAPS, TOKENS, FRAMES, PIECES, VECTOR, MATRIX, NOTHING = (
    "maps",
    "tokens",
    "frames",
    "pieces",
    "vector",
    "matrix",
    "nothing",
)
"""`maps`: rows and columns over the image. `tokens`: the same, from a sequence. `frames`: maps over time. `pieces`:
maps of parts of the image (windows) or of no known place. `vector`: a number for each channel. `matrix`: positions by
channels."""

MOST_PREFIX = 16
"""More class and register tokens than this no model has; a sequence that is longer than a grid by more is no grid."""


@dataclass(frozen=True)
class Layout:
    """Which axes of an output are channels, which are space, which number pieces; every other axis has size 1.

    `grid` are rows and columns (for frames: time, rows, columns; for pieces those of one piece); `before` and `after`
    count the tokens beside the grid; `tiles` are the rows and columns of pieces that make up the image, where known.
    `said` is the layout in letters, `how` where it was read from: `operators` means that it was followed, not guessed.
    """

    kind: str
    said: str
    channels: tuple[int, ...] = ()
    space: tuple[int, ...] = ()
    pieces: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()
    before: int = 0
    after: int = 0
    tiles: tuple[int, ...] = ()
    how: str = "operators"

    @property
    def covers(self) -> bool:
        """Whether its maps lie over the whole image."""
        return self.kind in (MAPS, TOKENS, FRAMES)

    def describe(self) -> str:
        """`NCHW`, `NHWC`, `tokens 14x14 + 1`."""
        guess = "" if self.how == "operators" else f" (by {self.how})"
        return f"{self.said}{guess}"


@dataclass(frozen=True)
class Place:
    """One tensor of one module call: where it stands in the trace, its shape and how to look at it."""

    path: str
    cls: str
    call: int
    index: int
    shape: Shape
    layout: Layout


def layouts(trace: Trace) -> tuple[Place, ...]:
    """Every tensor that every module call puts out, in the order in which the calls end.

    A module under several names has the first of them here, and its calls under all of them are numbered together.
    """
    found = followed(trace)
    grids = _grids(trace, found)
    last: dict[Shape, list[tuple[int, Axes]]] = {}
    for number, (op, axes) in enumerate(zip(trace.ops, found, strict=True)):
        for position, ref in enumerate(op.outputs):
            last.setdefault(ref.shape, []).append((number, axes[position]))
    places: list[Place] = []
    numbers: Counter[str] = Counter()
    for call in _as_they_end(trace.calls):
        path = trace.tree.aliases.get(call.path, call.path)
        numbers[path] += 1
        for index, shape in enumerate(call.outputs if path else ()):
            layout = layout_of(shape, _latest(last.get(shape, ()), call.end_op), grids)
            places.append(Place(path, call.cls, numbers[path], index, shape, layout))
    return tuple(places)


def _as_they_end(calls: Sequence[ModuleCall]) -> Iterator[ModuleCall]:
    """The calls, which stand in the order in which they begin, in the order in which they end."""
    running: list[int] = []
    for number, call in enumerate(calls):
        while running and running[-1] != call.parent:
            yield calls[running.pop()]
        running.append(number)
    yield from (calls[number] for number in reversed(running))


def _latest(written: Sequence[tuple[int, Axes]], end: int) -> Axes:
    """The axes of the last operator before `end` that put out this shape: what the module returns."""
    for number, axes in reversed(written):
        if number < end:
            return axes
    return ()


def _grids(trace: Trace, found: Sequence[tuple[Axes, ...]]) -> Mapping[tuple[int, int], None]:
    """Rows and columns that maps of this forward pass have, in order, without those of a single place."""
    grids: dict[tuple[int, int], None] = {}
    for op, outputs in zip(trace.ops, found, strict=True):
        for ref, axes in zip(op.outputs, outputs, strict=True):
            letters = [axis.letter for axis in axes]
            if ROW in letters and COLUMN in letters:
                size = ref.shape[letters.index(ROW)], ref.shape[letters.index(COLUMN)]
                if min(size) > 1:
                    grids[size] = None
    return grids


def layout_of(shape: Shape, axes: Axes, grids: Mapping[tuple[int, int], None]) -> Layout:
    """How to look at a tensor of `shape`, made of one image, whose axes are known as far as `axes` says."""
    if 0 in shape or not shape:
        return Layout(NOTHING if shape else VECTOR, "empty" if shape else "scalar")
    axes = axes if len(axes) == len(shape) else (Axis(UNKNOWN),) * len(shape)
    letters = [axis.letter for axis in axes]
    channel = letters.index(CHANNEL) if letters.count(CHANNEL) == 1 else None
    if channel is not None and ROW in letters and COLUMN in letters:
        return _spatial(shape, letters, channel)
    if channel is not None and TOKEN in letters and axes[letters.index(TOKEN)].grid:
        found = _tokens(shape, axes, letters, channel)
        if found is not None:
            return found
    if channel is not None and WINDOWS in letters:
        windowed = _windows(shape, axes, letters, channel)
        if windowed is not None:
            return windowed
    free = [dim for dim, size in enumerate(shape) if size > 1]
    if channel is None:
        return _by_sizes(shape, letters, free, grids)
    return _with_channel(shape, letters, channel, [dim for dim in free if dim != channel], grids)


def _spatial(shape: Shape, letters: list[str], channel: int) -> Layout:
    space = tuple(letters.index(letter) for letter in (FRAME, ROW, COLUMN) if letter in letters)
    rest = tuple(dim for dim, size in enumerate(shape) if size > 1 and dim not in space and dim != channel)
    said = "".join({BATCH: "N", FRAME: "D"}.get(letter, letter) for letter in letters)
    said = f"N{said[1:]}" if shape[0] == 1 and letters[0] == UNKNOWN else said
    kind = PIECES if rest else FRAMES if len(space) == 3 else MAPS
    grid = tuple(shape[dim] for dim in space)
    if not rest and numel(grid) == 1:
        return Layout(VECTOR, said, (channel,))
    if kind == PIECES and len(space) == 3:
        rest, space = (*rest, space[0]), space[1:]
        grid = grid[1:]
    return Layout(kind, said, (channel,), space, rest, grid)


def _tokens(shape: Shape, axes: Axes, letters: list[str], channel: int) -> Layout | None:
    """A sequence whose making was followed. A grid of three sizes is one over time."""
    dim = letters.index(TOKEN)
    axis = axes[dim]
    if numel(axis.grid) + axis.before + axis.after != shape[dim]:
        return None
    rest = tuple(d for d, size in enumerate(shape) if size > 1 and d not in (dim, channel))
    groups = tuple(d for d in rest if letters[d] == GROUP)
    if len(groups) != len(rest):
        return None
    kind = FRAMES if len(axis.grid) == 3 else TOKENS
    return Layout(kind, _said(axis), (*groups, channel), (dim,), (), axis.grid, axis.before, axis.after)


def _windows(shape: Shape, axes: Axes, letters: list[str], channel: int) -> Layout | None:
    """Windows of a map, each as rows and columns or as a sequence of its places."""
    where = letters.index(WINDOWS)
    if WINDOW in letters:
        space: tuple[int, ...] = (letters.index(WINDOW),)
        grid = axes[space[0]].grid
    elif INNER_ROW in letters and INNER_COLUMN in letters:
        space = letters.index(INNER_ROW), letters.index(INNER_COLUMN)
        grid = tuple(shape[dim] for dim in space)
    else:
        return None
    groups = tuple(dim for dim, letter in enumerate(letters) if letter == GROUP and shape[dim] > 1)
    used = {where, channel, *space, *groups}
    if any(size > 1 and dim not in used for dim, size in enumerate(shape)):
        return None
    said = f"{shape[where]} windows of {grid[0]}x{grid[1]}"
    return Layout(PIECES, said, (*groups, channel), space, (where,), grid, tiles=axes[where].grid)


def _said(axis: Axis) -> str:
    grid = "x".join(map(str, axis.grid))
    more = f" + {axis.before + axis.after}" if axis.before + axis.after else ""
    return f"tokens {grid}{more}"


def _with_channel(
    shape: Shape, letters: list[str], channel: int, others: list[int], grids: Mapping[tuple[int, int], None]
) -> Layout:
    """The channels are known, the other axes (`others`, those of more than one place) are not."""
    groups = tuple(dim for dim in others if letters[dim] == GROUP)
    space = [dim for dim in others if dim not in groups]
    channels = (*groups, channel)
    if not space:
        return Layout(VECTOR, "channels", channels)
    if len(space) == 1:
        found = _on_grid(shape[space[0]], grids)
        if found is not None:
            return Layout(TOKENS, _said(found), channels, (space[0],), (), found.grid, found.before, how="size")
        return Layout(MATRIX, "positions", channels, (space[0],))
    last = space[-2:]
    size = shape[last[0]], shape[last[1]]
    if len(space) == 2 and size in grids:
        said = "NHWC" if channel > last[0] else "NCHW"
        return Layout(MAPS, said, channels, tuple(last), (), size, how="size")
    if len(space) == 2 and isqrt(shape[space[1]]) ** 2 == shape[space[1]] and shape[space[0]] != shape[space[1]]:
        side = isqrt(shape[space[1]])  # windows, each a sequence of its places
        return Layout(PIECES, f"{shape[space[0]]} windows of {side}x{side}", channels, (space[1],), (space[0],),
                      (side, side), how="size")  # fmt: skip
    if len(space) == 3 and len(shape) == 5 and size in grids:
        grid = shape[space[0]], *size
        return Layout(FRAMES, "NDHWC" if channel > last[0] else "NCDHW", channels, tuple(space), (), grid, how="size")
    said = f"{size[0]}x{size[1]}"
    if len(space) > 2:
        said = f"{numel(shape[dim] for dim in space[:-2])} pieces of {said}"
    return Layout(PIECES, said, channels, tuple(last), tuple(space[:-2]), size, how="size")


def _by_sizes(shape: Shape, letters: list[str], free: list[int], grids: Mapping[tuple[int, int], None]) -> Layout:
    """Nothing is known of the channels: the sizes of this forward's own grids decide, else the order of the axes."""
    if len(free) < 2:
        return Layout(VECTOR, "values", tuple(free))
    if len(free) == 2:
        for dim, other in ((free[0], free[1]), (free[1], free[0])):
            found = _on_grid(shape[dim], grids, exact=len(shape) < 4)
            if found is not None and _on_grid(shape[other], grids) is None:
                return Layout(TOKENS, _said(found), (other,), (dim,), (), found.grid, found.before, how="size")
        if (shape[free[0]], shape[free[1]]) in grids:
            return Layout(MAPS, "one map", (), tuple(free), (), (shape[free[0]], shape[free[1]]), how="size")
        return Layout(MATRIX, "positions", (free[1],), (free[0],), how="order")
    for space, rest, said in ((free[-2:], free[:-2], "NCHW"), (free[-3:-1], [*free[:-3], free[-1]], "NHWC")):
        size = shape[space[0]], shape[space[1]]
        if size in grids and len(rest) == 1:
            return Layout(MAPS, said, tuple(rest), tuple(space), (), size, how="size")
    size = shape[free[-2]], shape[free[-1]]
    said = f"{numel(shape[dim] for dim in free[:-2])} matrices of {size[0]}x{size[1]}"
    return Layout(PIECES, said, tuple(free[:-2]), tuple(free[-2:]), (), size, how="order")


def _on_grid(count: int, grids: Mapping[tuple[int, int], None], exact: bool = False) -> Axis | None:
    """A sequence of `count` tokens as a grid of this forward pass with the fewest tokens in front, or None."""
    best: Axis | None = None
    for grid in grids:
        extra = count - numel(grid)
        if 0 <= extra <= (0 if exact else min(MOST_PREFIX, numel(grid) // 2)) and (best is None or extra < best.before):
            best = Axis(TOKEN, grid, extra)
    return best
