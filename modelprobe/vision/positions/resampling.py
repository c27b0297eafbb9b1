"""How operators that compute with neighbours, or cut out patches, move places: to the nearest one of the new grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from modelprobe.vision.positions.coordinates import Coordinates, compact, moves
from modelprobe.vision.positions.place import Place, PlacedCall, moving_elements


def convolving(call: PlacedCall) -> Sequence[Place | None]:
    """Convolution and pooling: the place of the first channel, at the nearest place of the new grid."""
    place = call.places[0]
    if place is None:
        return ()
    rank = spatial_rank(call)
    return [resampled(place, item.shape, rank, call.coordinates, _reach(call)) for item in call.results]


def _reach(call: PlacedCall) -> int | None:
    """How far a kernel reaches beyond its first element; None where that is not told."""
    kernel = call.args[1] if len(call.args) > 1 else None
    sizes = kernel.shape[2:] if isinstance(kernel, Tensor) else kernel
    if not isinstance(sizes, (list, tuple, torch.Size)) or not all(isinstance(size, int) for size in sizes):
        return None
    return max(sizes, default=1) - 1


def spatial_rank(call: PlacedCall) -> int:
    """How many of the last dimensions a convolution, pooling or upsampling runs over."""
    name = str(call.func._schema.name)
    return next((rank for rank in (1, 2, 3) if f"{rank}d" in name), None) or call.args[1].dim() - 2


def resampled(
    place: Place, shape: torch.Size, rank: int, coordinates: Coordinates, reach: int | None = None
) -> Place | None:
    """The place of a result [(N,) C, ..] over a grid of other sizes: nowhere where one is left of all places.

    A border of no place is that of a convolution which pads explicitly, unless its kernel's `reach` is less.
    """
    numbers = place.here
    channel = len(shape) - rank - 1
    if numbers.dim() != len(shape) or channel < 0 or numbers.shape[:channel] != shape[:channel] or 0 in shape:
        return None
    if max(shape[channel + 1 :]) == 1 and max(numbers.shape[channel + 1 :]) > 1:
        return Place(torch.zeros(1, dtype=torch.float64).expand(shape))
    first = numbers.narrow(channel, 0, 1)
    if moves(numbers, channel) and bool((first == first.flatten()[0]).all()):
        return None
    if channel == 1:
        first = _without_padding(first, reach)
    return Place(coordinates.spread(first, shape[channel + 1 :]).expand(shape))


def _without_padding(numbers: Tensor, reach: int | None) -> Tensor:
    """[N, 1, ..] without a border of no place, where it is no wider than `reach`."""
    placed = compact(numbers)[0, 0] > 0
    if numbers.dim() < 4 or bool(placed.all()) or not bool(placed.any()):
        return numbers
    inside = numbers
    for dim in range(placed.dim()):
        others = [other for other in range(placed.dim()) if other != dim]
        along = placed.any(others) if others else placed
        found = along.nonzero().flatten()
        if reach is not None and max(int(found[0]), len(along) - 1 - int(found[-1])) > max(reach, 1):
            return numbers
        if len(along) > 1:
            inside = inside.narrow(dim + 2, int(found[0]), int(found[-1] - found[0]) + 1)
    return inside if bool((inside > 0).all()) else numbers


def padding(call: PlacedCall) -> Sequence[Place | None]:
    """A border of any kind is nowhere, also one of values that stand elsewhere already."""
    place, pads = call.places[0], call.args[1]
    return () if place is None else (place.through(lambda numbers: functional.pad(numbers, list(pads))),)


def shuffling(call: PlacedCall) -> Sequence[Place | None]:
    """`pixel_shuffle` puts channels between the places that there are."""
    place = call.places[0]
    return () if place is None else (resampled(place, call.out.shape, 2, call.coordinates),)


def unfolding(call: PlacedCall) -> Sequence[Place | None]:
    """Patches as columns: those that do not overlap are moved; others lie where their middle is."""
    place, (kernel, dilation, pad, stride) = call.places[0], call.args[1:5]
    if place is None:
        return ()
    if list(kernel) == list(stride) and not any(pad) and all(step == 1 for step in dilation):
        return moving_elements(call)
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, d, p, s in zip(place.here.shape[-2:], kernel, dilation, pad, stride, strict=True)
    ]
    middle = resampled(place, torch.Size([*place.here.shape[:-2], *sizes]), 2, call.coordinates)
    if middle is None:
        return ()
    return (Place(middle.here.narrow(-3, 0, 1).flatten(-2).expand(call.out.shape)),)


def folding(call: PlacedCall) -> Sequence[Place | None]:
    """Columns of patches put back on a map, where overlapping ones are summed."""
    place, (size, kernel, dilation, pad, stride) = call.places[0], call.args[1:6]
    if place is None:
        return ()
    if list(kernel) == list(stride) and not any(pad) and all(step == 1 for step in dilation):
        return moving_elements(call)
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(size, kernel, dilation, pad, stride, strict=True)
    ]
    first = place.here.narrow(-2, 0, 1)
    patches = first.reshape(*first.shape[:-1], *sizes)
    return (Place(call.coordinates.spread(patches, size).expand(call.out.shape)),)
