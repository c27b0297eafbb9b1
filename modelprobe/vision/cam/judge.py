"""How much of what a model goes by does a map show? Pixels are taken away, and given back, in the map's order.

Deletion and insertion (Petsiuk, Das and Saenko 2018, arXiv:1806.07421): where a map is right, the class's probability
falls soon as its highest pixels are set to zero, and rises soon as they are put into an image of zeros. (They insert
into a blurred image; of strokes on an empty page that shows the object already, and right maps come out as others do.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.mapper import Region, regions_of
from modelprobe.vision.scores import Scores, over_places

POINTS = 32
"""Points of a curve after the first; each step changes the same number of pixels."""

IMAGES_AT_ONCE = 16
"""Images in one forward pass."""


@dataclass(frozen=True)
class Judgement:
    """The class's probability (its score, where it has none) after 0, 1/32, .. of the pixels.

    `deleted` while they are set to zero, `inserted` while they are put into an image of zeros.
    """

    deleted: tuple[float, ...]
    inserted: tuple[float, ...]

    @property
    def deletion(self) -> float:
        """The area under `deleted`: the smaller, the better."""
        return _area(self.deleted)

    @property
    def insertion(self) -> float:
        """The area under `inserted`: the larger, the better."""
        return _area(self.inserted)


def _area(values: Sequence[float]) -> float:
    """By the trapezoidal rule over 0..1."""
    inner = sum(values) - (values[0] + values[-1]) / 2
    return inner / (len(values) - 1)


def judge_map(
    model: nn.Module, x: Tensor, found: Tensor, target: int, scores: Scores | None = None, region: Region | None = None
) -> Judgement:
    """The deletion and insertion curves of a map [H, W] for class `target` of one image, [C, H, W] or [1, C, H, W].

    Of a model with scores for each place the probability is that over the `region`, or where the class wins in the
    image as it is. The model runs in eval mode, where `x` is, and is left as it was. Raises BadInput for a map of
    another size, for a class that there is not and for a model without scores.
    """
    image = x[None] if x.dim() == found.dim() + 1 else x
    if tuple(found.shape) != tuple(image.shape[2:]):
        shape, size = ("x".join(map(str, one)) for one in (found.shape, image.shape[2:]))
        raise BadInput(f"the map has {shape} values, and the image {size}", "cam(…).map")
    reading = scores if scores is not None else Scores(model)

    def read(batch: Tensor) -> Tensor:
        return reading.read(model(batch.clone()), len(batch)).float()

    def value(batch: Tensor) -> list[float]:
        scores = read(batch)
        if places is not None:
            shares = reading.probabilities_over(scores, places)
            return (over_places(scores, places) if shares is None else shares)[:, target].tolist()
        each = [reading.probabilities(row) for row in scores]
        return [float((row if share is None else share)[target]) for row, share in zip(scores, each, strict=True)]

    with restored(model), mode_set(model, False), torch.no_grad(), model_errors():
        whole = read(image)
        if not 0 <= target < whole.shape[1]:
            raise BadInput(f"class {target} is none of {whole.shape[1]}", f"0 to {whole.shape[1] - 1}")
        places = None if whole.dim() == 2 else regions_of(region, whole, reading.threshold, image.shape[-2:])
        return curves_of(value, image, found)


def curves_of(value: Callable[[Tensor], list[float]], image: Tensor, found: Tensor) -> Judgement:
    """The curves, given what is asked of a batch of images."""
    order = found.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.reshape(found.shape).to(image.device)
    ends = [round(len(order) * step / POINTS) for step in range(POINTS + 1)]
    nothing = torch.zeros_like(image)
    curves = []
    for before, after in ((image, nothing), (nothing, image)):
        values: list[float] = []
        for first in range(0, len(ends), IMAGES_AT_ONCE):
            part = [torch.where(rank < end, after, before) for end in ends[first : first + IMAGES_AT_ONCE]]
            values += value(torch.cat(part))
        curves.append(tuple(values))
    return Judgement(*curves)
