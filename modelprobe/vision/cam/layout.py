"""Every tensor of a forward pass by its name, and which of them lie on the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelprobe.tracing.capture import forward_hooks
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.tracing.tensors import leaves
from modelprobe.vision.positions.coordinates import Coordinates
from modelprobe.vision.positions.follow import Attended, Positions, unseen
from modelprobe.vision.positions.grid import Grid, grid_of
from modelprobe.vision.positions.place import Place

MAIN_FUNCTION = "forward"
"""What the model itself is called in the names of operators."""


class At(NamedTuple):
    """One tensor of a forward pass: tensor `item` of what call `call` of the module at `path` puts out.

    With `operator` it is what a torch function of this name returned while that module ran; `call` counts these. All
    numbers are from 0.
    """

    path: str
    call: int
    item: int
    operator: str = ""

    @property
    def name(self) -> str:
        """As `--layers` takes it: `layer4`, `layer4.1:add`, `forward:relu#7`."""
        if not self.operator:
            return self.path
        return f"{self.path or MAIN_FUNCTION}:{self.operator}" + (f"#{self.call + 1}" if self.call else "")


@dataclass(frozen=True)
class MapLayer:
    """A tensor of the forward pass that lies on the image as `grid`."""

    at: At
    grid: Grid = field(repr=False)
    space: tuple[int, ...] = ()
    """The sizes of the grid on each image."""

    @property
    def path(self) -> str:
        """The name, as `--layers` takes it."""
        return self.at.name

    @property
    def call(self) -> int:
        """Which call of the module or operator, from 0."""
        return self.at.call


@dataclass(frozen=True)
class ImageLayout:
    """What a run that follows positions tells: the tensors on the image, in order, and all names that ran."""

    layers: tuple[MapLayer, ...]
    ran: frozenset[str]
    other: dict[str, str] = field(default_factory=dict)
    """Names of tensors that are no grid, and their shapes."""
    attended: tuple[Attended, ...] = ()


class _Functions(TorchFunctionMode):
    """Every tensor that a torch function returns in this thread, with the function's name."""

    def __init__(self, see: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name != "__get__" and isinstance(out, (Tensor, tuple, list)):
            self._see(name.strip("_"), out)
        return out


@contextmanager
def every_output(
    model: nn.Module, see: Callable[[At, Tensor], None], nothing: Callable[[str, Any], None] | None = None
) -> Iterator[None]:
    """Within, `see` is given every tensor that a module puts out or a torch function returns, as it comes.

    `nothing` is given the path and the output of a module that puts out no tensor.
    """
    running: list[str] = []
    calls: Counter[tuple[str, str]] = Counter()

    def returned(name: str, out: Any) -> None:
        path = running[-1] if running else ""
        found = [out] if isinstance(out, Tensor) else [item for item in out if isinstance(item, Tensor)]
        if found:
            call = calls[path, name]
            calls[path, name] = call + 1
            with torch._C.DisableTorchFunction():
                for index, tensor in enumerate(found):
                    see(At(path, call, index, name), tensor)

    def leave(path: str, call: int, out: Any) -> None:
        running.pop()
        with torch._C.DisableTorchFunction():
            found = [tensor for _, tensor in leaves(out)]
            for index, tensor in enumerate(found):
                see(At(path, call, index), tensor)
            if not found and nothing is not None:
                nothing(path, out)

    with forward_hooks(model, leave, running.append), _Functions(returned):
        yield


def _space_of(grid: Grid, batch: int, dims: int) -> tuple[int, ...]:
    """The sizes of the grid on each of a batch of images, (1, l) on signals; empty where it is not one for each."""
    sizes = grid.sizes if batch == 1 else grid.sizes[1:] if grid.sizes[0] == batch else ()
    if dims == 1:
        return sizes if len(sizes) == 2 and sizes[0] == 1 < sizes[1] else ()
    return sizes if 2 <= len(sizes) <= dims and min(sizes[-2:]) > 1 else ()


def lay_out(model: nn.Module, images: Tensor, wanted: Container[At] | None = None) -> ImageLayout:
    """Run `model` once on `images` [B, C, H, W] and follow the pixels; which of the `wanted` tensors lie on them.

    Signals [B, C, L] and videos or volumes [B, C, T, H, W] alike.

    By default the outputs of all modules are. Raises ModelRaised when the model raises.
    """
    layers: list[MapLayer] = []
    ran: set[str] = set()
    other: dict[str, str] = {}
    batch = len(images)
    running: list[str] = []

    def see(at: At, tensor: Tensor) -> None:
        ran.add(at.name)
        if at.operator if wanted is None else at not in wanted:
            return
        place = watched.place(tensor)
        with unseen():
            grid = None if place is None else grid_of(place.here, watched.coordinates)
        space = () if grid is None else _space_of(grid, batch, images.dim() - 2)
        if grid is None or not space:
            other.setdefault(at.name, "x".join(map(str, tensor.shape)))  # a line of an image shows nothing
        else:
            layers.append(MapLayer(at, grid, space))

    def nothing(path: str, out: Any) -> None:
        ran.add(path)
        other[path] = f"{type(out).__name__}, no tensor"

    with restored(model), mode_set(model, False), torch.inference_mode():
        images = images.detach().clone()
        frames, rows, columns = (1, 1, *images.shape[2:])[-3:]
        coordinates = Coordinates(frames, rows, columns, batch)
        watched = Positions([images], coordinates, lambda: running[-1] if running else "")
        if images.dim() == 3:  # of a signal the channels are no places
            numbers = coordinates.numbered((batch, 1, 1, columns))[:, 0].expand(images.shape)
            watched.set_place(images, Place(numbers))

        def leave(*_: Any) -> None:
            running.pop()

        following = forward_hooks(model, leave, running.append)
        with following, model_errors(), watched, every_output(model, see, nothing):
            model(images)
    return ImageLayout(tuple(layers), frozenset(ran), other, tuple(watched.attended))
