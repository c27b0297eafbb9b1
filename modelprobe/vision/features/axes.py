"""The axes of intermediate tensors, followed through the ledger, operator by operator.

A convolution says where the channels are, a permutation moves them, a reshape merges rows and columns into tokens, a
concatenation puts class tokens in front of them. Nothing is guessed from sizes here; what a rule does not know is `?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelprobe.tracing.records import OpCall, Shape, Trace, numel

BATCH, CHANNEL, ROW, COLUMN, FRAME, TOKEN, GROUP, UNKNOWN = "B", "C", "H", "W", "T", "N", "G", "?"
"""Letters for axes. `N` are rows and columns in one, `G` groups of channels, such as the heads of attention."""

OUTER_ROW, INNER_ROW, OUTER_COLUMN, INNER_COLUMN, WINDOWS, WINDOW = "r", "s", "c", "k", "P", "M"
"""Rows cut into `r` pieces of `s`, columns into `c` pieces of `k`; `P` are `r` and `c` in one, `M` are `s` and `k`."""

_SPLIT = {ROW: (OUTER_ROW, INNER_ROW), COLUMN: (OUTER_COLUMN, INNER_COLUMN)}
_MERGED = {"HW": TOKEN, "THW": TOKEN, "rc": WINDOWS, "sk": WINDOW, "rs": ROW, "ck": COLUMN}
_PARTS: dict[str, dict[int, tuple[str, ...]]] = {
    TOKEN: {2: (ROW, COLUMN), 3: (FRAME, ROW, COLUMN)},
    WINDOWS: {2: (OUTER_ROW, OUTER_COLUMN)},
    WINDOW: {2: (INNER_ROW, INNER_COLUMN)},
}

SPATIAL = {1: (TOKEN,), 2: (ROW, COLUMN), 3: (FRAME, ROW, COLUMN)}
"""The axes behind the channels of a convolution, by how many there are."""

_CHANNELS_FIRST = (
    "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d _convolution batch_norm "
    "group_norm instance_norm native_group_norm max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d "
    "max_pool3d avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool2d max_pool2d_with_indices upsample_bilinear2d "
    "upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle "
    "pixel_unshuffle channel_shuffle"
).split()
_CHANNELS_LAST = ("linear", "layer_norm", "rms_norm", "native_layer_norm", "embedding")
_PICKS = ("index", "index_select", "gather", "take", "take_along_dim", "sort", "topk", "masked_select")
"""What may put places in another order: afterwards nobody knows where they are."""

_RESHAPES = ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "squeeze", "unsqueeze")


@dataclass(frozen=True)
class Axis:
    """One axis. Merged ones carry the grid they were made of; tokens also how many more stand before and after it."""

    letter: str
    grid: tuple[int, ...] = ()
    before: int = 0
    after: int = 0


Axes = tuple[Axis, ...]
NONE = Axis(UNKNOWN)


def followed(trace: Trace) -> list[tuple[Axes, ...]]:
    """For each operator of the trace the axes of its outputs; none (`()`) of one about which nothing is known."""
    known: dict[int, Axes] = {}
    for ref in trace.inputs:
        letters = (BATCH, CHANNEL, *SPATIAL.get(len(ref.shape) - 2, ()))
        if len(letters) == len(ref.shape) and len(ref.shape) > 3:
            known[ref.value] = tuple(map(Axis, letters))
    found: list[tuple[Axes, ...]] = []
    for op in trace.ops:
        inputs = [known.get(ref.value) for ref in op.inputs]
        outputs = [_axes(op, index, inputs) for index in range(len(op.outputs))]
        known.update((ref.value, axes) for ref, axes in zip(op.outputs, outputs, strict=True) if axes is not None)
        found.append(tuple(axes or () for axes in outputs))
    return found


def _axes(op: OpCall, index: int, inputs: Sequence[Axes | None]) -> Axes | None:
    """The axes of one output, or None where nothing is known."""
    name = op.name.partition(".")[2].rstrip("_")
    shape = op.outputs[index].shape
    first = inputs[0] if inputs else None
    if name in _CHANNELS_FIRST:
        return _channels_first(shape, first, op)
    if name in _CHANNELS_LAST:
        base = first if first is not None and len(first) == len(shape) else (NONE,) * len(shape)
        return (*base[:-1], Axis(CHANNEL)) if shape else None
    if name in ("matmul", "bmm", "scaled_dot_product_attention"):
        return _product(name, shape, inputs)
    if name == "cat":
        return _joined(op, inputs, shape)
    if first is None:
        return _like(shape, op, inputs)
    before = op.inputs[0].shape
    if name in ("permute", "transpose", "numpy_T", "t", "movedim", "swapaxes"):
        return _permuted(name, first, op.arguments, len(shape))
    if name in _RESHAPES:
        return regrouped(first, before, shape)
    if name in ("slice", "narrow"):
        return _sliced(first, before, shape, op.arguments)
    if name in ("select", "unbind", "mean", "sum", "amax", "max", "argmax", "std", "var") and len(shape) < len(before):
        return _without(first, before, shape, op.arguments)
    if name == "stack":
        return None
    found = _like(shape, op, inputs)
    return _places_lost(found) if name in _PICKS and found is not None else found


def _channels_first(shape: Shape, first: Axes | None, op: OpCall) -> Axes | None:
    """Batch, channels, then space. Over an axis of tokens of unchanged length (conv1d) tokens stay what they were."""
    rank = len(shape) - 2
    if rank == 1 and first is not None and len(first) == 3 and op.inputs[0].shape[-1] == shape[-1]:
        return Axis(BATCH), Axis(CHANNEL), first[-1]
    if rank == 0:
        return Axis(BATCH), Axis(CHANNEL)
    return (Axis(BATCH), Axis(CHANNEL), *map(Axis, SPATIAL[rank])) if rank in (2, 3) else None


def _product(name: str, shape: Shape, inputs: Sequence[Axes | None]) -> Axes | None:
    left, right = (*inputs, None, None)[:2]
    if left is None or len(left) != len(shape):
        return None
    if name != "matmul" and name != "bmm":
        return left  # attention: the positions of the queries, the channels of the values
    last = right[-1] if right is not None and len(right) == len(shape) else NONE
    return (*left[:-1], last)


def _like(shape: Shape, op: OpCall, inputs: Sequence[Axes | None]) -> Axes | None:
    """Elementwise and its like: the axes of the operand that has most to say. An axis whose size changed is unknown

    unless all are spatial (padding, resizing), and its merged grid no longer holds.
    """
    best: Axes | None = None
    for ref, axes in zip(op.inputs, inputs, strict=True):
        if axes is None or len(axes) != len(shape):
            continue
        kept = tuple(
            axis if size == old else _resized(axis, old) for axis, size, old in zip(axes, shape, ref.shape, strict=True)
        )
        if best is None or _said(kept) > _said(best):
            best = kept
    return best


def _places_lost(axes: Axes) -> Axes:
    return tuple(axis if axis.letter in (BATCH, CHANNEL, GROUP) else NONE for axis in axes)


def _resized(axis: Axis, old: int) -> Axis:
    if axis.letter in (ROW, COLUMN, FRAME, CHANNEL, BATCH) or old == 1:
        return axis if old != 1 else (NONE if axis.letter in (ROW, COLUMN, TOKEN) else axis)
    return NONE


def _said(axes: Axes) -> int:
    return sum(axis.letter != UNKNOWN for axis in axes)


def _permuted(name: str, axes: Axes, arguments: tuple[Any, ...], rank: int) -> Axes | None:
    if name == "permute" and len(arguments) > 1 and isinstance(arguments[1], (tuple, list)):
        return tuple(axes[dim] for dim in arguments[1]) if len(arguments[1]) == len(axes) else None
    if name in ("numpy_T", "t"):
        return axes[::-1]
    if len(arguments) > 2 and isinstance(arguments[1], int) and isinstance(arguments[2], int):
        moved = list(axes)
        one, other = arguments[1] % rank, arguments[2] % rank
        if name == "movedim":
            moved.insert(other, moved.pop(one))
        else:
            moved[one], moved[other] = moved[other], moved[one]
        return tuple(moved)
    return None


def _sliced(axes: Axes, before: Shape, shape: Shape, arguments: tuple[Any, ...]) -> Axes | None:
    """A part of an axis. Of tokens: cutting off those in front or behind leaves the grid."""
    if len(axes) != len(shape):
        return None
    start = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    kept = list(axes)
    for dim, (old, new) in enumerate(zip(before, shape, strict=True)):
        if old == new or axes[dim].letter != TOKEN:
            continue
        axis, cut = axes[dim], start if start >= 0 else old + start
        left, right = axis.before - cut, axis.after - (old - new - cut)
        kept[dim] = replace(axis, before=left, after=right) if axis.grid and left >= 0 and right >= 0 else NONE
    return tuple(kept)


def _without(axes: Axes, before: Shape, shape: Shape, arguments: tuple[Any, ...]) -> Axes | None:
    """The axes that a reduction or a selection leaves."""
    given = arguments[1] if len(arguments) > 1 else None
    dims = {given} if isinstance(given, int) else set(given) if isinstance(given, (tuple, list)) else {0}
    if not all(isinstance(dim, int) for dim in dims):
        return None
    gone = {dim % len(before) for dim in dims}
    kept = tuple(axis for dim, axis in enumerate(axes) if dim not in gone)
    return kept if len(kept) == len(shape) else None


def _joined(op: OpCall, inputs: Sequence[Axes | None], shape: Shape) -> Axes | None:
    """A concatenation: along tokens, what stands before and after the ones that have a grid is counted."""
    known = [(number, axes) for number, axes in enumerate(inputs) if axes is not None and len(axes) == len(shape)]
    if not known:
        return None
    changed = [
        d for d in range(len(shape)) if any(len(r.shape) == len(shape) and r.shape[d] != shape[d] for r in op.inputs)
    ]
    number, axes = max(known, key=lambda item: (_said(item[1]), _tokens_in(item[1])))
    if len(changed) != 1 or axes[changed[0]].letter != TOKEN:
        return axes
    dim = changed[0]
    number, axes = max(known, key=lambda item: (bool(item[1][dim].grid), op.inputs[item[0]].shape[dim]))
    ahead = sum(ref.shape[dim] for ref in op.inputs[:number])
    behind = sum(ref.shape[dim] for ref in op.inputs[number + 1 :])
    axis = axes[dim]
    joined = replace(axis, before=axis.before + ahead, after=axis.after + behind) if axis.grid else axis
    return (*axes[:dim], joined, *axes[dim + 1 :])


def _tokens_in(axes: Axes) -> int:
    return sum(bool(axis.grid) for axis in axes)


def regrouped(axes: Axes, before: Shape, shape: Shape) -> Axes:
    """The axes after a reshape: sizes are matched from the left into groups of equal product."""
    old = [(axis, size) for axis, size in zip(axes, before, strict=True) if size != 1 or axis.letter == BATCH]
    new = [size for size in shape if size != 1]
    if numel(before) != numel(shape):
        return (NONE,) * len(shape)
    found: list[Axis] = []
    old = [item for item in old if item[1] != 1]
    i = j = 0
    while i < len(old) and j < len(new):
        one, other, i0, j0 = old[i][1], new[j], i, j
        i, j = i + 1, j + 1
        while one != other:
            if one < other:
                one, i = one * old[i][1], i + 1
            else:
                other, j = other * new[j], j + 1
        found += _group([axis for axis, _ in old[i0:i]], [size for _, size in old[i0:i]], new[j0:j])
    return whole_again(_with_ones(found, axes, before, shape))


def _group(axes: list[Axis], sizes: list[int], new: list[int]) -> list[Axis]:
    """The new axes that one group of old axes, of the same product, has become."""
    letters = "".join(axis.letter for axis in axes)
    if len(new) == 1:
        if len(axes) == 1:
            return axes
        if letters in _MERGED:
            merged = _MERGED[letters]
            return [Axis(merged, tuple(sizes) if merged in _PARTS else ())]
        # Patches of rows and columns put into channels (patch merging), heads put together again.
        return [Axis(CHANNEL)] if CHANNEL in letters and set(letters) <= {CHANNEL, GROUP, "s", "k"} else [NONE]
    if len(axes) > 1:
        return [NONE] * len(new)
    axis = axes[0]
    parts = _PARTS.get(axis.letter, {}).get(len(new))
    if parts is not None and axis.grid == tuple(new) and not axis.before + axis.after:
        return [Axis(letter) for letter in parts]
    if axis.letter in _SPLIT and len(new) == 2:
        return [Axis(letter) for letter in _SPLIT[axis.letter]]
    if axis.letter == CHANNEL:
        return [*[Axis(GROUP)] * (len(new) - 1), Axis(CHANNEL)]
    return [NONE] * len(new)


def whole_again(axes: Axes) -> Axes:
    """Pieces of rows whose insides went into the channels are the rows of a coarser map."""
    letters = {axis.letter for axis in axes}
    if letters & {INNER_ROW, INNER_COLUMN, WINDOW}:
        return axes
    coarse = {OUTER_ROW: Axis(ROW), OUTER_COLUMN: Axis(COLUMN)}
    return tuple(coarse.get(axis.letter, axis) for axis in axes)


def _with_ones(found: list[Axis], axes: Axes, before: Shape, shape: Shape) -> Axes:
    """Axes of size 1 put back where the new shape has them: the batch in front, else unknown."""
    rest = iter(found)
    whole = [NONE if size == 1 else next(rest, NONE) for size in shape]
    if shape and shape[0] == 1 and before and before[0] == 1:
        whole[0] = axes[0]
    return tuple(whole)
