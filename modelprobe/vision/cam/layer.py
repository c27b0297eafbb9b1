"""The layer of a class activation map, chosen from two forward passes, not from a list of models.

The first records gradients and tells through which values every path from the image to the scores passes: what modules
put out, and what stands between operators. The second follows positions and tells which of these lie on the image. The
layer is the last that (1) every path passes through, (2) lies on the image as a grid, and (3) has a gradient somewhere
on that grid; pooling and views behind it are no layers of their own. In a convolutional network that is the last map
before pooling, be it a module or a sum in `forward`. In a transformer that reads its class token alone it is the input
of the last block: behind it, no patch has any influence.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.gradients import Edge, Paths, edge_of, gradients, never_off, nothing_zero, with_gradients
from modelprobe.vision.cam.layout import At, MapLayer, every_output, lay_out
from modelprobe.vision.positions.grid import Grid

AT_ONCE = 6
"""Values whose gradients are asked for in one pass backwards, once the last one had none."""

KEPT_BYTES = 2**29
"""Of outputs kept until the layer is known; where the layer's own is gone by then, a pass of its own finds it again."""

FAR = 0.5
"""Where more than this share of the products with weights come behind the layer, its map shows an early stage."""

_WEIGHED = re.compile(r"Convolution|Addmm|Mm|Bmm|Attention")
"""Nodes of the graph that most of a network's work is in."""

_RESAMPLING = re.compile(
    r"View|Reshape|Squeeze|Select|Slice|Alias|Permute|Transpose|TBackward|Copy|Clone|Expand|Pool|Mean|Upsample|Dropout"
)
"""Nodes of the graph that hand values on, or make a coarser or finer map of the same."""


@dataclass(frozen=True)
class Choice:
    """The layer, and the reason in words. `whole` is False where no one layer carries everything to the scores."""

    layer: MapLayer
    reason: str
    whole: bool = True


@dataclass(frozen=True)
class LayerGradients:
    """What stands at a layer for a batch, [B, C, h, w], and the gradients of its targets' scores, of the same shape."""

    activation: Tensor
    gradients: tuple[Tensor, ...]


Targets = Callable[[Any], Sequence[Tensor]]
"""From an output of the model: for each target the scalar whose gradient is wanted, summed over the batch."""


def choose_layer(model: nn.Module, images: Tensor, targets: Targets) -> tuple[Choice, LayerGradients | None]:
    """The layer for the first of the targets, and the gradients of all of them. Raises BadInput when no layer will do.

    There are no gradients where weights that are zero had to be replaced to find the layer, or where its output was
    not kept: then the map needs a forward pass of its own, by `at_layer`.
    """
    with model_errors():
        found = with_gradients(model, lambda: _choice(model, images, targets))
        if found is None:
            with nothing_zero(model):
                found = with_gradients(model, lambda: _choice(model, images, targets))
            found = None if found is None else (found[0], None)
    if found is None:
        raise BadInput(
            "no layer lies on the image as a grid and has a gradient",
            "--method saliency, integrated-gradients or occlusion need no layer; --layers names one",
        )
    return found


def at_layer(model: nn.Module, images: Tensor, targets: Targets, layer: MapLayer) -> LayerGradients:
    """What stands at `layer` for `images`, and the gradients of the targets with respect to it; one forward pass."""

    def compute() -> LayerGradients:
        found: list[tuple[Tensor, Edge | None]] = []

        def see(at: At, tensor: Tensor) -> None:
            if at == layer.at and tuple(tensor.shape) == layer.grid.shape:
                found.append((tensor.detach().clone(), edge_of(tensor)))

        with _with_graph(model, images) as (_, given), every_output(model, see):
            out = model(given)
        if not found:
            raise BadInput(
                f"the layer {layer.path} puts out another shape for this image", "leave --layers out: one is chosen"
            )
        activation, edge = found[0]
        return _gathered(layer.grid, activation, edge, targets(out), len(images))

    with model_errors():
        return with_gradients(model, compute)


@contextmanager
def _with_graph(model: nn.Module, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The images as a leaf of the graph, and what the model is to be given, in eval mode and with gradients on."""
    with restored(model), mode_set(model, False), never_off():
        pixels = images.detach().clone().requires_grad_()
        yield pixels, pixels * 1  # some models write to their input, which a leaf may not let them


class _Passed:
    """The values of a forward pass by their place in the autograd graph, in the order in which they were made."""

    def __init__(self, weighty: Collection[str]) -> None:
        self.names: dict[Edge, At] = {}
        self.order: dict[Edge, int] = {}
        self._weighty = weighty
        self._kept: dict[Edge, tuple[Tensor, int]] = {}
        self._recent: deque[Edge] = deque()
        self._bytes = 0

    def see(self, at: At, tensor: Tensor) -> None:
        edge = edge_of(tensor)
        if edge is None:
            return
        known = self.names.get(edge)
        self.order.setdefault(edge, len(self.order))
        if known is None or self.rank(at) < self.rank(known):
            self.names[edge] = at
        if edge not in self._kept:
            self._kept[edge] = tensor, tensor._version
            self._recent.append(edge)
            self._bytes += tensor.numel() * tensor.element_size()
            while self._bytes > KEPT_BYTES and len(self._recent) > 1:
                gone, _ = self._kept.pop(self._recent.popleft())
                self._bytes -= gone.numel() * gone.element_size()

    def value(self, edge: Edge) -> Tensor | None:
        """The tensor at `edge`, None where it was not kept or has been written over."""
        tensor, version = self._kept.get(edge, (None, 0))
        return tensor.detach() if tensor is not None and tensor._version == version else None

    def rank(self, at: At) -> tuple[bool, bool, int, int]:
        """Modules first, of these the ones with weights, the outermost."""
        return bool(at.operator), at.path not in self._weighty, at.path.count("."), len(at.path)


def _choice(model: nn.Module, images: Tensor, targets: Targets) -> tuple[Choice, LayerGradients | None] | None:
    weighty = {path for path, module in model.named_modules() if next(module.parameters(), None) is not None}
    passed = _Passed(weighty)

    def see(at: At, tensor: Tensor) -> None:
        if at.path or at.operator:  # what the model itself puts out is no layer
            passed.see(at, tensor)

    with _with_graph(model, images) as (pixels, given), every_output(model, see):
        out = model(given)
    scores = targets(out)
    if not scores[0].requires_grad:
        raise BadInput("the scores do not depend on the image by any gradient", "--method occlusion needs none")
    paths = Paths(scores[0], pixels)
    answer = _resampled_from(answer_of(targets))
    choice, edge = _chosen(model, images, passed, scores[0], paths, answer)
    if choice is None and answer:
        choice, edge = _chosen(model, images, passed, scores[0], paths, set())
        if choice is not None:
            choice = replace(
                choice, reason=f"of {grid_text(choice.layer)}; only the scores themselves lie on the image"
            )
    if choice is None:
        choice, edge = _widest(model, images, passed, scores[0], paths, weighty)
    if choice is None or edge is None:
        return None
    value = passed.value(edge)
    return choice, None if value is None else _gathered(choice.layer.grid, value, edge, scores, len(images))


def _gathered(
    grid: Grid, activation: Tensor, edge: Edge | None, scores: Sequence[Tensor], batch: int
) -> LayerGradients:
    found = []
    for score in scores:
        (gradient,) = (None,) if edge is None or not score.requires_grad else gradients(score, [edge])
        found.append(on_grid(grid, torch.zeros_like(activation) if gradient is None else gradient, batch))
    return LayerGradients(on_grid(grid, activation, batch), tuple(found))


def on_grid(grid: Grid, tensor: Tensor, batch: int) -> Tensor:
    """[B, C, h, w] of a tensor that lies on a batch of images; [B, C, l] on signals, [B, C, t, h, w] on videos."""
    found = grid.gather(tensor)
    found = found.squeeze(-2) if grid.height == 1 else found
    return found.transpose(0, 1) if batch > 1 else found[None]


def _chosen(
    model: nn.Module, images: Tensor, passed: _Passed, score: Tensor, paths: Paths, answer: Collection[Any]
) -> tuple[Choice | None, Edge | None]:
    """The last place; `answer` are the nodes of scores that lie on the image themselves."""
    through = [edge for edge in passed.names if paths.through(edge) and edge[0] not in answer]
    names = {passed.names[edge] for edge in through}
    grids = {layer.at: layer for layer in lay_out(model, images, names).layers} if names else {}
    placed = [(edge, grids[passed.names[edge]]) for edge in through if passed.names[edge] in grids]
    at, silent = _last_with_gradient(placed, score, len(images))
    if at is None:
        return None, None
    while at and _only_resampled(placed[at][0], placed[at - 1][0]):
        earlier, later = placed[at - 1][1], placed[at][1]
        if earlier.grid.sizes == later.grid.sizes and passed.rank(earlier.at)[:2] > passed.rank(later.at)[:2]:
            break  # the same map, and the later one is a module
        at -= 1
    edge, layer = placed[at]
    products = [passed.order[e] for e in passed.names if _WEIGHED.search(type(e[0]).__name__)]
    behind = sum(number > passed.order[edge] for number in products)
    far = f"{behind} of {len(products)}" if behind > max(2, FAR * len(products)) else ""
    return Choice(layer, _reason_text(layer, silent, far)), edge


def answer_of(targets: Targets) -> Tensor | None:
    """The scores of all places, where `targets` reads such: a map of them would be the answer itself."""
    found = getattr(targets, "dense", None)
    return found if isinstance(found, Tensor) else None


def _resampled_from(answer: Tensor | None) -> set[Any]:
    """The nodes from an answer back to what it is pooled, enlarged or viewed from, that included."""
    node, found = None if answer is None else answer.grad_fn, set()
    while node is not None:
        found.add(node)
        following = [child for child, _ in node.next_functions if child is not None]
        resampled = _RESAMPLING.search(type(node).__name__) and len(following) == 1
        node = following[0] if resampled else None
    return found


def _only_resampled(later: Edge, earlier: Edge) -> bool:
    """Whether one value is pooled, enlarged or only viewed to make the other."""
    node = later[0]
    while node is not earlier[0]:
        following = [child for child, _ in node.next_functions if child is not None]
        if not _RESAMPLING.search(type(node).__name__) or len(following) != 1:
            return False
        node = following[0]
    return True


def _widest(
    model: nn.Module, images: Tensor, passed: _Passed, score: Tensor, paths: Paths, weighty: Collection[str]
) -> tuple[Choice | None, Edge | None]:
    """Where no value carries everything (branches that meet behind their pooling): the last that carries most."""
    edges = {edge: at for edge, at in passed.names.items() if not at.operator and at.path in weighty}
    grids = {layer.at: layer for layer in lay_out(model, images, set(edges.values())).layers}
    placed = [(edge, grids[at]) for edge, at in edges.items() if at in grids]
    counts = {edge: paths.count(edge) for edge, _ in placed}
    most = max(counts.values(), default=0)
    wide = [(edge, layer) for edge, layer in placed if 10 * counts[edge] >= 9 * most > 0]
    for among in (wide, placed):
        at, _ = _last_with_gradient(among, score, len(images))
        if at is not None:
            edge, layer = among[at]
            reason = (
                f"of {grid_text(layer)}; no layer carries everything from the image to the scores, and this one most"
            )
            return Choice(layer, reason, whole=False), edge
    return None, None


def grid_text(layer: MapLayer) -> str:
    """`14x14 places (tokens 14x14 + 1)`."""
    space = layer.space if layer.space[0] > 1 else layer.space[1:]
    return f"{'x'.join(map(str, space))} places ({layer.grid.layout})"


def _reason_text(layer: MapLayer, silent: Sequence[MapLayer], far: str) -> str:
    what = "value" if layer.at.operator else "layer"
    reason = f"the last {what} of {grid_text(layer)} through which everything passes from the image to the scores"
    if silent:
        name = next((one.path for one in silent if not one.at.operator), silent[0].path)
        reason += f"; behind it, in {name}, no place has any influence"
    if far:
        reason += f"; {far} products with weights come behind it, so its map shows an early stage"
    return reason


def _last_with_gradient(
    found: Sequence[tuple[Edge, MapLayer]], score: Tensor, batch: int
) -> tuple[int | None, list[MapLayer]]:
    """The index of the last one with a gradient on its grid, and those behind it that have none, the last first."""
    silent: list[MapLayer] = []
    left, many = len(found), 1
    while left:
        first = max(0, left - many)
        values = gradients(score, [edge for edge, _ in found[first:left]])
        for at in range(left - 1, first - 1, -1):
            layer, value = found[at][1], values[at - first]
            if value is not None and bool(layer.grid.gather(value).any()):
                return at, silent
            silent.append(layer)
        left, many = first, AT_ONCE
    return None, silent
