"""Class activation maps of batches: the outputs read as scores, the layers chosen once, the maps of every target."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.gradients import differentiable, never_off
from modelprobe.vision.cam.layer import Choice, LayerGradients, at_layer, choose_layer
from modelprobe.vision.cam.layout import ImageLayout, MapLayer, lay_out
from modelprobe.vision.cam.methods import (
    AT_LAYER,
    LAYERED,
    ClassMap,
    ScoreTarget,
    enlarged,
    image_map,
    maps_at_layer,
    shown_part,
)
from modelprobe.vision.images import UnreadableError
from modelprobe.vision.scores import EMBEDDING, Reading, Scores, check_finite, highest, likeness, over_places
from modelprobe.vision.together import near

ClassesOf = Callable[[Tensor], Sequence[ScoreTarget]]
"""From the scores [classes] of one image to what maps are made for."""


@dataclass(frozen=True)
class Region:
    """The places of a dense output that a map is made for: one of them, (x, y) in pixels of the model's input, or a

    mask [H, W] of zeros and ones, which is scaled to the output.
    """

    at: tuple[int, int] | None = None
    mask: Tensor | None = None

    def describe(self) -> str:
        """What tells it from another one."""
        return str(self.at) if self.mask is None else f"{zlib.crc32(self.mask.numpy().tobytes()):08x}"

    def over(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        """[1, 1, H, W] for scores [B, classes, H, W] of images of `size`. Raises BadInput for one outside of it."""
        rows, columns = scores.shape[-2:]
        if self.at is not None:
            x, y = self.at
            if not (0 <= x < size[1] and 0 <= y < size[0]):
                raise BadInput(
                    f"--at {x},{y} lies outside of the {size[1]} x {size[0]} pixels that the model sees",
                    f"x from 0 to {size[1] - 1}, y from 0 to {size[0] - 1}",
                )
            found = torch.zeros(1, 1, rows, columns)
            found[..., y * rows // size[0], x * columns // size[1]] = 1
            return found
        assert self.mask is not None
        if tuple(self.mask.shape) != tuple(size):
            height, width = self.mask.shape
            raise BadInput(
                f"the mask has {width} x {height} pixels, and the model sees {size[1]} x {size[0]}",
                "scale and crop it as the image is; `Images` in the report says how",
            )
        if not bool(self.mask.any()):
            raise BadInput("the mask is zero everywhere", "1 marks the places that the map is made for")
        return nn.functional.interpolate(self.mask[None, None].float(), size=(rows, columns), mode="area").ceil()


def regions_of(region: Region | None, scores: Tensor, threshold: float, size: Sequence[int]) -> Tensor:
    """[B, 1, H, W] of a region that was asked for; [B, classes, H, W] of where each class wins."""
    if region is None:
        return highest(scores, threshold).detach()
    return region.over(scores, size).expand(len(scores), 1, -1, -1)


class ClassMapper:
    """Class activation maps of one model. The layer for images of each size is found once.

    The first batch of a size takes two forward passes for its scores, the layer and its gradients; each other one.
    `read` gives the scores of an output; by default they are found in it, and reduced over a `region` where there is
    one for every place; `like` is an embedding that others are compared with.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[str],
        layers: Sequence[str] = (),
        scores: Scores | None = None,
        *,
        region: Region | None = None,
        like: Tensor | None = None,
        read: Reading | None = None,
    ) -> None:
        self._model, self._methods, self._layers = model, methods, layers
        self.scores = scores if scores is not None else Scores(model)
        self._region, self._like, self._given = region, like, read
        self._choices: dict[tuple[int, ...], tuple[Choice, ...]] = {}

    def maps(self, images: Tensor, classes_of: ClassesOf) -> tuple[list[tuple[ClassMap, ...]], tuple[Choice, ...]]:
        """The maps of images [B, C, H, W], for each image those of each target and method; and the layers.

        `classes_of` names as many targets for each image. Raises BadInput for a layer that will not do.
        """
        layered = any(method in LAYERED for method in self._methods)
        asked = _Asked(self, images, classes_of)
        size = tuple(images.shape)
        choices: tuple[Choice, ...] = ()
        known: list[LayerGradients | None] = []
        if layered and size not in self._choices and not self._layers:
            choice, found = choose_layer(self._model, images, asked)
            self._choices[size], known = (choice,), [found]
        elif layered and size not in self._choices:
            self._choices[size] = named_layers(self._model, self._layers, images)
        if layered:
            choices = self._choices[size]
            for at in range(len(known), len(choices)):
                known.append(at_layer(self._model, images, asked, choices[at].layer))
            known = [
                found if found is not None else at_layer(self._model, images, asked, choice.layer)
                for found, choice in zip(known, choices, strict=True)
            ]
        if not asked.targets:
            asked.look(self._model)
        return [self._of_image(asked, images, at, choices, known) for at in range(len(images))], choices

    def depends_on_others(self, image: Tensor, classes_of: ClassesOf, found: ClassMap) -> bool:
        """Whether the score of `found`, made in a batch, is another one for its `image` [1, C, H, W] alone."""
        asked = _Asked(self, image, classes_of)
        asked.look(self._model)
        return not near(torch.tensor(found.score), asked.scores[0][found.target])

    def _of_image(
        self, asked: _Asked, images: Tensor, at: int, choices: Sequence[Choice], known: Sequence[LayerGradients | None]
    ) -> tuple[ClassMap, ...]:
        """The maps of image `at`, for each target those of each method."""
        scores = asked.scores[at]
        own = self._given is None and self._like is None
        shares = self.scores.probabilities(scores) if own else None
        if own and asked.dense is not None and asked.regions is not None:
            mean = self.scores.probabilities_over(
                asked.dense[at : at + 1].detach().float().cpu(), asked.regions[at : at + 1].cpu()
            )
            shares = None if mean is None else mean[0]
        reasons = "; ".join(dict.fromkeys(choice.reason for choice in choices))
        found = []
        for number, target in enumerate(asked.targets[at]):
            score = float(scores[target.index])
            share = None if shares is None else float(shares[target.index])
            for method in self._methods:
                layered = method in LAYERED
                raws: list[Tensor] = []
                remarks: tuple[str, ...] = ()
                for layer in known if layered else [None]:
                    alone = None if layer is None else _of_one_image(layer, at, number)
                    if alone is not None and method in AT_LAYER:
                        raw = maps_at_layer(method, alone, 0)[0]
                    else:
                        read, image = asked.reading(at), images[at : at + 1]
                        raw, remarks = image_map(self._model, read, image, target, method, score, alone)
                    raws.append(raw.float().cpu())
                boxes = [choice.layer.grid.box for choice in choices] if layered else [None]
                fine = _averaged([
                    enlarged(shown_part(method, raw), images.shape[2:], box)
                    for raw, box in zip(raws, boxes, strict=True)
                ])  # fmt: skip
                raw = raws[0] if len(raws) == 1 else fine
                told = (", ".join(choice.layer.path for choice in choices), reasons) if layered else ("", "")
                found.append(ClassMap(method, target.index, score, share, fine, raw, *told, remarks, target.against))
        return tuple(found)


class _Asked:
    """What is asked of a batch: its scores, once the model ran, and the targets of each image."""

    def __init__(self, mapper: ClassMapper, images: Tensor, classes_of: ClassesOf) -> None:
        self._mapper, self._images, self._classes_of = mapper, images, classes_of
        self.scores = torch.empty(0)
        self.targets: list[Sequence[ScoreTarget]] = []
        self.dense: Tensor | None = None
        """The scores of all places in the graph, of the first pass."""
        self.regions: Tensor | None = None

    def __call__(self, out: Any) -> list[Tensor]:
        """For each target the score of all images together, from an output of the model."""
        read = self._read(out, self.regions)
        if not self.targets:
            self._settle(read, out)
        many = range(len(self.targets[0]))
        return [
            sum((row[at].sign * read[i, row[at].index] for i, row in enumerate(self.targets)), torch.zeros(()).to(read))
            for at in many
        ]

    def look(self, model: nn.Module) -> None:
        """Run the model for its scores alone, with gradients on, which tell how an output was made."""
        with restored(model), mode_set(model, False), model_errors(), differentiable(model), never_off():
            out = model(self._images.detach().clone().requires_grad_() * 1)
            self._settle(self._read(out, None), out)

    def reading(self, at: int) -> Reading:
        """The scores [1, classes] of image `at`, with its region as it was found."""
        regions = None if self.regions is None else self.regions[at : at + 1]
        return lambda out: self._read(out, regions)

    def _settle(self, read: Tensor, out: Any) -> None:
        self.scores = read.detach().float().cpu()
        if len(read) != len(self._images):
            made = f"{len(read)} numbers for {len(self._images)} images"
            raise BadInput(f"the target function gives {made}", "return one number for each image, [B]")
        check_finite(self.scores, type(self._mapper._model).__name__)
        self.targets = [tuple(self._classes_of(row)) for row in self.scores]
        scores = self._mapper.scores
        if self._mapper._given is None and scores.dense:
            self.dense = dense = scores.read(out, len(self._images))
            self.regions = regions_of(self._mapper._region, dense, scores.threshold, self._images.shape[-2:])
            if self._mapper._region is None:
                self._check_somewhere(self.regions)

    def _check_somewhere(self, won: Tensor) -> None:
        """Raise UnreadableError for a class that was named and wins at no place of an image."""
        for at, targets in enumerate(self.targets):
            for target in targets:
                if target.asked and not target.against and not bool(won[at, target.index].any()):
                    raise UnreadableError(
                        f"class {target.index} scores highest at no place of this image",
                        "--at X,Y or --mask FILE name places that the map is made for",
                    )

    def _read(self, out: Any, regions: Tensor | None) -> Tensor:
        mapper = self._mapper
        if mapper._given is not None:
            given = mapper._given(out)
            return given.reshape(-1, 1) if given.dim() < 2 else given
        found = mapper.scores.read(out, None if mapper.scores.kind else len(self._images))
        if mapper._like is not None:
            return likeness(found, mapper._like.to(found.device))
        if mapper.scores.kind == EMBEDDING:
            raise BadInput(
                f"{type(mapper._model).__name__} is no classifier: it puts out an embedding, {found.shape[1]} numbers",
                "--like IMAGE maps what makes two images alike; --scores softmax takes the numbers for classes",
            )
        if found.dim() != 4:
            if mapper._region is not None:
                raise BadInput(
                    "the model puts out one score for each class, not for each place",
                    "--at and --mask are for segmentation",
                )
            return found
        if regions is None:
            regions = regions_of(mapper._region, found, mapper.scores.threshold, self._images.shape[-2:])
        return over_places(found, regions)


def _of_one_image(known: LayerGradients, at: int, number: int) -> LayerGradients:
    """What stands at the layer for one image and one target."""
    return LayerGradients(known.activation[at : at + 1], (known.gradients[number][at : at + 1],))


def _averaged(parts: Sequence[Tensor]) -> Tensor:
    """The map itself, or the mean of several, each scaled to 0..1."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack([part / part.amax().clamp(min=1e-12) for part in parts]).mean(0)


def named_layers(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[Choice, ...]:
    """The last call of each layer that is named. Raises BadInput when one is unknown, never ran, or is no grid."""
    wanted = [part.strip() for name in names for part in name.split(",") if part.strip()]
    found = lay_out(model, images, _Everything(wanted))
    return tuple(named_layer(model, name, found) for name in wanted)


class _Everything:
    """What is wanted of a layout: whatever has one of these names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = set(names)

    def __contains__(self, at: Any) -> bool:
        return at.name in self._names


def named_layer(model: nn.Module, name: str, found: ImageLayout) -> Choice:
    """The last call of the layer called `name`. Raises BadInput when it is unknown, never ran, or is no grid."""
    known = [path for path, _ in model.named_modules() if path]
    if name not in known and name not in found.ran:
        close = difflib.get_close_matches(name, [*known, *sorted(found.ran)], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "`modelprobe summary` shows the layers"
        raise BadInput(f"there is no layer {name!r}", hint)
    if name not in found.ran:
        raise BadInput(f"the layer {name} never ran on this image", "leave --layers out: one is chosen")
    layers: list[MapLayer] = [layer for layer in found.layers if layer.path == name]
    if not layers:
        what = found.other.get(name, "no tensor")
        shape = what.replace("x", "").isdigit()
        raise BadInput(
            f"the layer {name} puts out {what}{', which is no grid of places' if shape else ''}",
            "leave --layers out: one is chosen",
        )
    calls = f", its call {layers[-1].call + 1}" if layers[-1].call and not layers[-1].at.operator else ""
    return Choice(layers[-1], f"asked for{calls}: {layers[-1].grid.layout}")


def embedding_of(model: nn.Module, image: Tensor, scores: Scores) -> Tensor:
    """The embedding [D] of an image [1, C, H, W]."""
    with restored(model), mode_set(model, False), torch.no_grad(), model_errors():
        found = scores.read(model(image.clone()), len(image))
    if found.dim() != 2:
        raise BadInput("--like compares embeddings, and this model puts out a score for each place", "--at X,Y")
    return found[0].detach()


def check_class(index: int, count: int, name: str) -> None:
    """Raise BadInput for a class that a model of `count` classes does not have."""
    if not 0 <= index < count:
        raise BadInput(
            f"{name} has {count} classes, 0 to {count - 1}: there is no class {index}",
            "`modelprobe predict` lists the likely ones",
        )
