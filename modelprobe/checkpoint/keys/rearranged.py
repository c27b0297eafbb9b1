"""Where the outputs of somebody's conversion function come from: which source, whole, cut, joined or in another order.

The function is run on tensors that carry, instead of weights, the identity of their source and the coordinates of their
elements. They are expanded from a few numbers, so that nothing of the size of the weights is in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SourceShape = tuple[int, ...]
Convert = Callable[[dict[str, Any]], Mapping[str, Any]]

MAX_SOURCE_DIMS = 4
"""Of a source: weights of convolutions have four."""


@dataclass(frozen=True, slots=True)
class Rearranged:
    """An output: its shape, its sources, and the steps (`apply.OPS`) from these to it. Without sources it is zero."""

    shape: SourceShape
    sources: tuple[str, ...]
    steps: tuple[tuple[str, SourceShape], ...] = ()


def rearranged(convert: Convert, shapes: Mapping[str, SourceShape]) -> dict[str, Rearranged] | None:
    """What `convert` does with tensors of these shapes; None where it raises.

    An output is left out when it is anything but elements of its sources in another order: an average, a product.
    """
    import torch

    if any(len(shape) > MAX_SOURCE_DIMS for shape in shapes.values()):
        return None
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randperm(1 << 22, generator=generator)[: len(shapes)]
    drawn = 1 + numbers.float() / (1 << 22)  # exact in float32; twice or half of one is not another
    tags = dict(zip(shapes, drawn, strict=True))
    known = {float(tag): name for name, tag in tags.items()}
    try:
        runs = [dict(convert({name: tags[name].expand(shape) for name, shape in shapes.items()}))]
        for dim in range(MAX_SOURCE_DIMS):
            runs.append(dict(convert({name: _coordinates(shape, dim) for name, shape in shapes.items()})))
    except Exception:  # noqa: BLE001 - the conversion of another library fails in whatever way on names it does not know
        return None
    made = {}
    for name, owner in runs[0].items():
        values = [run.get(name) for run in runs]
        if all(torch.is_tensor(value) and value.shape == owner.shape for value in values):
            found = _explained([*map(_plain, values)], shapes, known)
            if found is not None:
                made[name] = found
    return made


def _plain(value: Any) -> Tensor:
    found: Tensor = value.detach().double()
    return found


def _coordinates(shape: SourceShape, dim: int) -> Tensor:
    """A tensor of which every element is its own coordinate along one dimension."""
    import torch

    if dim >= len(shape):
        return torch.zeros(()).expand(shape)
    steps = torch.arange(shape[dim], dtype=torch.float32)  # exact up to 2**24
    return steps.reshape([-1 if at == dim else 1 for at in range(len(shape))]).expand(shape)


def _explained(
    values: Sequence[Tensor], shapes: Mapping[str, SourceShape], known: Mapping[float, str]
) -> Rearranged | None:
    owner, *coordinates = values
    shape = tuple(owner.shape)
    if not owner.numel():
        return None
    low, high = float(owner.min()), float(owner.max())
    if low == high == 0 and not any(bool(value.any()) for value in coordinates):
        return Rearranged(shape, ())
    if low == high:
        source = known.get(low)
        steps = _steps_between(coordinates, shapes[source], shape) if source is not None else None
        return Rearranged(shape, (source,), steps) if source is not None and steps is not None else None
    return _joined_sources(values, shapes, known)


def _joined_sources(
    values: Sequence[Tensor], shapes: Mapping[str, SourceShape], known: Mapping[float, str]
) -> Rearranged | None:
    """Several whole sources one after the other, along the dimension in which they differ."""
    owner = values[0]
    for dim in range(owner.dim()):
        rows = owner.movedim(dim, 0).flatten(1) if owner.dim() > 1 else owner.reshape(-1, 1)
        if not bool((rows.amin(1) == rows.amax(1)).all()):
            continue
        parts, start = [], 0
        for tag, group in itertools.groupby(rows[:, 0].tolist()):
            count, source = len(list(group)), known.get(tag)
            there = [value.narrow(dim, start, count) for value in values[1:]]
            if source is None or _steps_between(there, shapes[source], tuple(there[0].shape)) != ():
                return None
            parts.append(source)
            start += count
        return Rearranged(tuple(owner.shape), tuple(parts), (("join", (dim,)),))
    return None


def _steps_between(
    coordinates: Sequence[Tensor], source: SourceShape, shape: SourceShape
) -> tuple[tuple[str, SourceShape], ...] | None:
    """The steps from a source to elements of it that have these coordinates; None when none of ours do that."""
    import torch

    flat = torch.zeros(shape, dtype=torch.float64)
    step = 1
    for dim in reversed(range(len(source))):
        flat += coordinates[dim] * step
        step *= source[dim]
    index = flat.reshape(-1).long()
    first, count = int(index[0]), len(index)
    row = step // source[0] if source and source[0] else 1
    if bool((index == torch.arange(first, first + count)).all()):
        if count == step:
            return () if shape == source else (("reshape", shape),)
        if first % row or count % row:
            return None
        rows = (first // row, count // row)
        cut = (rows[1], *source[1:])
        return (("rows", rows),) if cut == shape else (("rows", rows), ("reshape", shape))
    if count != step:
        return None
    every = torch.arange(step).reshape(source)
    for order in itertools.permutations(range(len(source))):
        moved = every.permute(order)
        if bool((moved.reshape(-1) == index).all()):
            turned = ("permute", order)
            return (turned,) if tuple(moved.shape) == shape else (turned, ("reshape", shape))
    return None
