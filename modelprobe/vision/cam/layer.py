"""The layer of a class activation map, chosen from two forward passes, not from a list of models.

The first follows positions: it tells how every layer lies on the image, and the scores. The second records gradients.
Chosen is the last layer that (1) lies on the image as a grid, (2) every path from the image to the scores passes
through, and (3) has a gradient somewhere on that grid. In a convolutional network that is the last map before pooling.
In a transformer that reads its class token alone it is the input of the last block: behind it, no patch has any
influence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.hooks import forward_hooks
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.gradients import Edge, Paths, edge_of, gradients, never_off, nothing_zero, with_gradients
from modelprobe.vision.logits import logits_of
from modelprobe.vision.positions.coordinates import Coordinates
from modelprobe.vision.positions.follow import Attended, Positions
from modelprobe.vision.positions.grid import Grid, grid_of

AT_ONCE = 6
"""Layers whose gradients are asked for in one pass backwards."""


@dataclass(frozen=True)
class MapLayer:
    """One call of a module whose output lies on the image. `call` counts the calls of this module, from 0."""

    path: str
    call: int
    grid: Grid = field(repr=False)
    weighty: bool = True
    """Whether there are parameters in it."""


@dataclass(frozen=True)
class ImageLayout:
    """What a run that follows positions tells: the layers on the image, in order, and all paths that ran."""

    layers: tuple[MapLayer, ...]
    ran: frozenset[str]
    other: dict[str, str] = field(default_factory=dict)
    """Paths whose output is something else, and what."""
    attended: tuple[Attended, ...] = ()
    output: Any = field(default=None, repr=False)
    """What the model returned."""


@dataclass(frozen=True)
class Choice:
    """The layer, and the reason in words. `whole` is False where no one layer carries everything to the scores."""

    layer: MapLayer
    reason: str
    whole: bool = True


@dataclass(frozen=True)
class LayerGradients:
    """The output of a layer on one image, and the gradient of the scores of some classes with respect to it."""

    activation: Tensor
    of_class: Mapping[int, Tensor]


def first_tensor(out: Any) -> Tensor | None:
    """The tensor that an output is, or that stands first in it."""
    if isinstance(out, Tensor):
        return out
    items = list(out.values()) if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    return next((found for item in items if (found := first_tensor(item)) is not None), None)


def lay_out(model: nn.Module, image: Tensor) -> ImageLayout:
    """Run `model` once on `image` [1, C, H, W] and follow the pixels. Raises ModelRaised when the model raises."""
    running: list[str] = []
    layers: list[MapLayer] = []
    ran: set[str] = set()
    other: dict[str, str] = {}
    with restored(model), mode_set(model, False), torch.inference_mode():
        image = image.detach().clone()
        watched = Positions([image], Coordinates.exact(image), lambda: running[-1] if running else "")

        def leave(path: str, call: int, out: Any) -> None:
            running.pop()
            ran.add(path)
            found = first_tensor(out)
            place = None if found is None else watched.place(found)
            grid = None if place is None else grid_of(place.here, watched.coordinates)
            if grid is None or len(grid.sizes) > 2 or min(grid.sizes) < 2:  # a line shows nothing
                other[path] = type(out).__name__ if found is None else "x".join(map(str, found.shape))
            else:
                weighty = next(model.get_submodule(path).parameters(), None) is not None
                layers.append(MapLayer(path, call, grid, weighty))

        with forward_hooks(model, leave, running.append), model_errors(), watched:
            output = model(image)
    return ImageLayout(tuple(layers), frozenset(ran), other, tuple(watched.attended), output)


def choose_layer(
    model: nn.Module, image: Tensor, classes: Sequence[int], layout: ImageLayout
) -> tuple[Choice, LayerGradients | None]:
    """The layer for the first of `classes`, and its gradients for all of them. Raises BadInput when no layer will do.

    There are no gradients where the output was overwritten later in the forward pass, or where weights that are zero
    had to be replaced to find the layer: then the map needs a forward pass of its own.
    """
    with model_errors():
        found = with_gradients(model, lambda: _choice(model, image, classes, layout))
        if found is None:
            with nothing_zero(model):
                found = with_gradients(model, lambda: _choice(model, image, classes, layout))
            found = None if found is None else (found[0], None)
    if found is None:
        raise BadInput(
            "no layer lies on the image as a grid and has a gradient",
            "--method saliency, integrated-gradients or occlusion need no layer; --layers names one",
        )
    return found


@dataclass(frozen=True)
class _LayerOutput:
    """The output of a candidate, where it stands in the autograd graph, and its version: writes in place raise it."""

    tensor: Tensor
    edge: Edge
    version: int


def _choice(
    model: nn.Module, image: Tensor, classes: Sequence[int], layout: ImageLayout
) -> tuple[Choice, LayerGradients | None] | None:
    wanted = {(layer.path, layer.call): layer for layer in layout.layers if layer.path}
    outputs: dict[tuple[str, int], _LayerOutput] = {}

    def leave(path: str, call: int, out: Any) -> None:
        found = first_tensor(out)
        edge = None if found is None or (path, call) not in wanted else edge_of(found)
        if found is not None and edge is not None:
            outputs[path, call] = _LayerOutput(found, edge, found._version)

    with restored(model), mode_set(model, False):
        pixels = image.detach().clone().requires_grad_()
        with forward_hooks(model, leave), never_off():
            logits = logits_of(model(pixels * 1), model)
        if not logits.requires_grad:
            raise BadInput("the scores do not depend on the image by any gradient", "--method occlusion needs none")
        score = logits[0, classes[0]]
        edges = {key: output.edge for key, output in outputs.items()}
        choice = _chosen(_one_layer_per_tensor(wanted, edges), score, Paths(score, pixels))
        if choice is None:
            return None
        return choice, _gradients_at(outputs[choice.layer.path, choice.layer.call], logits[0], classes)


def _gradients_at(output: _LayerOutput, logits: Tensor, classes: Sequence[int]) -> LayerGradients | None:
    if output.tensor._version != output.version:
        return None
    of_class = {}
    for index in classes:
        (gradient,) = gradients(logits[index], [output.edge])
        of_class[index] = torch.zeros_like(output.tensor) if gradient is None else gradient
    return LayerGradients(output.tensor.detach(), of_class)


def _one_layer_per_tensor(
    wanted: dict[tuple[str, int], MapLayer], edges: dict[tuple[str, int], Edge]
) -> list[tuple[Edge, MapLayer]]:
    """One layer for each tensor, the outermost module that puts it out, in the order of the forward pass."""
    best: dict[Edge, MapLayer] = {}
    for key, edge in edges.items():
        layer = wanted[key]
        known = best.get(edge)
        if known is None or _layer_rank(layer) < _layer_rank(known):
            best[edge] = layer
    return list(best.items())


def _layer_rank(layer: MapLayer) -> tuple[bool, int, int]:
    """Layers with weights first, then the outermost."""
    return not layer.weighty, layer.path.count("."), len(layer.path)


def _chosen(groups: Sequence[tuple[Edge, MapLayer]], score: Tensor, paths: Paths) -> Choice | None:
    for weighty in (True, False):
        through = [(edge, layer) for edge, layer in groups if layer.weighty is weighty and paths.through(edge)]
        layer, silent = _last_with_gradient(through, score)
        if layer is not None:
            return Choice(layer, _reason_text(layer, silent))
    return _widest(groups, score, paths)


def _widest(groups: Sequence[tuple[Edge, MapLayer]], score: Tensor, paths: Paths) -> Choice | None:
    """Where no layer carries everything (branches that meet behind their pooling): the last that carries most."""
    counts = {edge: paths.count(edge) for edge, layer in groups if layer.weighty}
    most = max(counts.values(), default=0)
    wide = [(edge, layer) for edge, layer in groups if 10 * counts.get(edge, 0) >= 9 * most > 0]
    layer, _ = _last_with_gradient(wide, score)
    if layer is None:
        layer, _ = _last_with_gradient([entry for entry in groups if entry[1].weighty], score)
    if layer is None:
        return None
    reason = f"of {_grid_text(layer)}; no layer carries everything from the image to the scores, and this one most"
    return Choice(layer, reason, whole=False)


def _grid_text(layer: MapLayer) -> str:
    return f"{layer.grid.height}x{layer.grid.width} places ({layer.grid.layout})"


def _reason_text(layer: MapLayer, silent: Sequence[MapLayer]) -> str:
    reason = f"the last layer of {_grid_text(layer)} through which everything passes from the image to the scores"
    if silent:
        reason += f"; behind it, in {silent[0].path}, no place has any influence"
    return reason


def _last_with_gradient(
    found: Sequence[tuple[Edge, MapLayer]], score: Tensor
) -> tuple[MapLayer | None, list[MapLayer]]:
    """The last layer with a gradient on its grid, and those behind it that have none."""
    silent: list[MapLayer] = []
    left = list(found)
    while left:
        left, part = left[:-AT_ONCE], left[-AT_ONCE:]
        values = gradients(score, [edge for edge, _ in part])
        for (_, layer), value in reversed(list(zip(part, values, strict=True))):
            if value is not None and bool(layer.grid.gather(value).any()):
                return layer, silent
            silent.append(layer)
    return None, silent
