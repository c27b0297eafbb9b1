"""What is known of where a tensor's elements lie, and of an operator call that is to move it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from modelprobe.vision.positions.coordinates import Coordinates, compact


@dataclass(frozen=True)
class Place:
    """The numbers (0 for none) of every element, in the shape of its tensor and on the CPU.

    `keys` are those of the columns of a product `q @ k^T`: what its last dimension looks at.
    """

    here: Tensor
    keys: Tensor | None = None

    def through(self, move: Callable[[Tensor], Tensor]) -> Place:
        """The place of what `move` makes of the tensor."""
        return Place(move(self.here), None if self.keys is None else move(self.keys))

    @cached_property
    def highest(self) -> float:
        """The largest number, 0 where no element has a place."""
        return float(compact(self.here).max()) if self.here.numel() else 0.0

    @property
    def anywhere(self) -> bool:
        """Whether any element has a place."""
        return self.highest > 0

    @property
    def numbers(self) -> Tensor:
        """Where the elements lie: those of the columns, where the rows lie nowhere."""
        return self.here if self.keys is None or self.anywhere else self.keys


@dataclass(frozen=True)
class PlacedCall:
    """An operator call: the places of its tensor arguments, and of the tensors in its first list, None for unknown."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    places: list[Place | None]
    listed: list[Place | None]
    out: Any
    coordinates: Coordinates

    @property
    def results(self) -> list[Any]:
        """What the operator returned, as a list."""
        return list(self.out) if isinstance(self.out, (tuple, list)) else [self.out]

    @property
    def known(self) -> list[Place]:
        """The places of all tensor arguments that have one."""
        return [place for place in (*self.places, *self.listed) if place is not None]


PlaceRule = Callable[[PlacedCall], Sequence["Place | None"]]


def moving_elements(call: PlacedCall) -> Sequence[Place | None]:
    """An operator that only moves elements of its first argument: it moves their numbers too."""
    place = call.places[0]
    if place is None or any(tensor.is_meta for tensor in tensors_in(call.args[1:])):
        return ()  # indices without values
    args, kwargs = _on_cpu(call.args[1:]), {key: _on_cpu(value) for key, value in call.kwargs.items()}

    def moved(numbers: Tensor) -> Any:
        return call.func(numbers, *args, **kwargs)

    here = moved(place.here)
    keys = None if place.keys is None else moved(place.keys)
    if isinstance(call.out, Tensor):
        return (Place(here, keys),)
    return [Place(item, None if keys is None else keys[index]) for index, item in enumerate(here)]


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in arguments, in those that are lists too."""
    if isinstance(values, Tensor):
        return [values]
    return [found for item in values for found in tensors_in(item)] if isinstance(values, (list, tuple)) else []


def _on_cpu(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.cpu()
    return type(values)(map(_on_cpu, values)) if isinstance(values, (list, tuple)) else values
