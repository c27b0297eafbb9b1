"""Class activation maps of images: the layer chosen, the maps computed and drawn."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.console import working
from modelprobe.errors import BadInput, ModelRaised
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.layer import Choice, ImageLayout, LayerGradients, MapLayer, at_layer, choose_layer, lay_out
from modelprobe.vision.cam.methods import (
    AT_LAYER,
    LAYERED,
    ClassMap,
    Target,
    check_method,
    enlarged,
    image_map,
    layer_maps,
    shown_part,
)
from modelprobe.vision.cam.result import CamEntry, CamResult, ImageMaps, Remarks, draw_class_maps, entry_of
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import Photo, find_images, open_image
from modelprobe.vision.photos import Progress, each_photo, in_batches, write_result
from modelprobe.vision.pictures.colour import colour_map
from modelprobe.vision.scores import (
    EMBEDDING,
    Reading,
    ScoreOptions,
    Scores,
    check_finite,
    highest,
    likeness,
    over_places,
)

ClassesOf = Callable[[Tensor], Sequence[Target]]
"""From the scores [classes] of one image to what maps are made for."""


@dataclass(frozen=True)
class CamOptions:
    """What the command line said about maps."""

    methods: tuple[str, ...]
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    cmap: str
    scores: ScoreOptions = field(default_factory=ScoreOptions)
    region: Region | None = None
    like: Path | None = None


@dataclass(frozen=True)
class Region:
    """The places of a dense output that a map is made for: one of them, (x, y) in pixels of the model's input, or a

    mask [H, W] of zeros and ones, which is scaled to the output.
    """

    at: tuple[int, int] | None = None
    mask: Tensor | None = None

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
        return nn.functional.interpolate(self.mask[None, None].float(), size=(rows, columns), mode="area").ceil()


def region_of(at: str | None, mask: Path | None) -> Region | None:
    """What `--at` and `--mask` say. Raises BadInput for both, for what is no place, and for a mask without white."""
    if at is None and mask is None:
        return None
    if at is not None and mask is not None:
        raise BadInput("--at and --mask both name places", "give one of them")
    if at is not None:
        parts = at.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise BadInput(f"--at {at!r} is no place", "for example --at 120,80: x to the right, y down")
        return Region(at=(int(parts[0]), int(parts[1])))
    import numpy as np

    assert mask is not None
    values = torch.from_numpy(np.asarray(open_image(mask).picture.convert("L")).copy()) > 127
    if not bool(values.any()):
        raise BadInput(f"the mask {mask} has no white pixel", "white is what the map is made for, black the rest")
    return Region(mask=values)


def methods_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The methods that `--method` names, each once; Grad-CAM when it names none. Raises BadInput for an unknown one."""
    names = [name.strip().lower() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        check_method(name)
    return tuple(dict.fromkeys(names)) or ("gradcam",)


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

    def maps(
        self, images: Tensor, classes_of: ClassesOf
    ) -> tuple[list[tuple[ClassMap, ...]], tuple[Choice, ...]]:
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

    def _of_image(
        self, asked: _Asked, images: Tensor, at: int, choices: Sequence[Choice], known: Sequence[LayerGradients | None]
    ) -> tuple[ClassMap, ...]:
        image, found = images[at : at + 1], []
        scores = asked.scores[at]
        shares = None if self._given is not None or self._like is not None else self.scores.probabilities(scores)
        for number, target in enumerate(asked.targets[at]):
            score = float(scores[target.index])
            for method in self._methods:
                fine: Tensor | None = None
                remarks: tuple[str, ...] = ()
                raws = []
                at_layers = [one for one in known if one is not None] if method in LAYERED else [None]
                for one in at_layers:
                    alone = None if one is None else _of_one(one, at, number)
                    if alone is not None and method in AT_LAYER:
                        raw = layer_maps(method, alone, 0)[0]
                    else:
                        read = asked.reading(at)
                        raw, remarks = image_map(self._model, read, image, target, method, score, alone)
                    raws.append(raw.float().cpu())
                parts = [enlarged(shown_part(method, raw), image.shape[-2:]) for raw in raws]
                fine = parts[0] if len(parts) == 1 else _averaged(parts)
                told = ("", "")
                if method in LAYERED:
                    told = ", ".join(c.layer.path for c in choices), "; ".join(dict.fromkeys(c.reason for c in choices))
                share = None if shares is None else float(shares[target.index])
                found.append(
                    ClassMap(
                        method, target.index, score, share, fine, raws[0] if len(raws) == 1 else fine, *told,
                        remarks, target.against,
                    )  # fmt: skip
                )
        return tuple(found)


class _Asked:
    """What is asked of a batch: its scores, once the model ran, and the targets of each image."""

    def __init__(self, mapper: ClassMapper, images: Tensor, classes_of: ClassesOf) -> None:
        self._mapper, self._images, self._classes_of = mapper, images, classes_of
        self.scores = torch.empty(0)
        self.targets: list[Sequence[Target]] = []
        self.dense: Tensor | None = None
        """The scores of all places in the graph, of the first pass."""
        self._regions: Tensor | None = None

    def __call__(self, out: Any) -> list[Tensor]:
        """For each target the score of all images together, from an output of the model."""
        read = self._read(out, self._regions)
        if not self.targets:
            self._settle(read, out)
        many = range(len(self.targets[0]))
        return [
            sum((row[at].sign * read[i, row[at].index] for i, row in enumerate(self.targets)), torch.zeros(()).to(read))
            for at in many
        ]

    def look(self, model: nn.Module) -> None:
        """Run the model for its scores alone, with gradients on, which tell how an output was made."""
        with restored(model), mode_set(model, False), model_errors(), torch.inference_mode(False), torch.enable_grad():
            out = model(self._images.detach().clone().requires_grad_() * 1)
            self._settle(self._read(out, None), out)

    def reading(self, at: int) -> Reading:
        """The scores [1, classes] of image `at`, with its region as it was found."""
        regions = None if self._regions is None else self._regions[at : at + 1]
        return lambda out: self._read(out, regions)

    def _settle(self, read: Tensor, out: Any) -> None:
        self.scores = read.detach().float().cpu()
        check_finite(self.scores, type(self._mapper._model).__name__)
        self.targets = [tuple(self._classes_of(row)) for row in self.scores]
        scores = self._mapper.scores
        if self._mapper._given is None and scores.dense:
            self.dense = dense = scores.read(out, len(self._images))
            region = self._mapper._region
            self._regions = (
                highest(dense)
                if region is None
                else region.over(dense, self._images.shape[-2:]).expand(len(dense), 1, -1, -1)
            ).detach()

    def _read(self, out: Any, regions: Tensor | None) -> Tensor:
        mapper = self._mapper
        if mapper._given is not None:
            given = mapper._given(out)
            return given.reshape(-1, 1) if given.dim() < 2 else given
        found = mapper.scores.read(out, next((len(t) for _, t in _tensors(out)), 1))
        if mapper._like is not None:
            return likeness(found, mapper._like.to(found.device))
        if mapper.scores.kind == EMBEDDING:
            raise BadInput(
                f"{type(mapper._model).__name__} is no classifier: it puts out an embedding of {found.shape[1]} numbers",
                "--like IMAGE maps what makes two images alike; --scores softmax takes the numbers for classes",
            )
        if found.dim() != 4:
            if mapper._region is not None:
                raise BadInput(
                    "the model puts out one score for each class, not for each place",
                    "--at and --mask are for segmentation",
                )
            return found
        if regions is None and mapper._region is not None:
            regions = mapper._region.over(found, self._images.shape[-2:])
        return over_places(found, regions)


def _tensors(out: Any) -> Any:
    from modelprobe.tracing.tensors import leaves

    return (item for item in leaves(out) if item[1].dim())


def _of_one(known: LayerGradients, at: int, number: int) -> LayerGradients:
    """What stands at the layer for one image and one target."""
    return LayerGradients(known.activation[at : at + 1], (known.gradients[number][at : at + 1],))


def _averaged(parts: Sequence[Tensor]) -> Tensor:
    """The mean of maps, each scaled to 0..1."""
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


def cam(
    model: nn.Module,
    x: Tensor,
    target: int | Callable[[Any], Tensor] | None = None,
    *,
    method: str = "gradcam",
    layer: str | Sequence[str] | None = None,
    against: bool = False,
    output: str | int | None = None,
    scores: str | None = None,
    at: tuple[int, int] | None = None,
    mask: Tensor | None = None,
    like: Tensor | None = None,
) -> Any:
    """Where `x` speaks for class `target` of a model: `.map` [H, W], a float32 tensor on the CPU, not negative.

    `x` is one image as the model takes it, [C, H, W] or [1, C, H, W], or several, [B, C, H, W]: then a list of maps is
    returned. `target` is an index, by default the top prediction, or a function from the model's output to a score for
    each image; `against` asks for what lowers it. `method` is one of gradcam, gradcam++, layercam, hirescam, eigencam,
    scorecam, guided-gradcam, integrated-gradients, saliency, occlusion. The layer is chosen by the paths from the image
    to the scores, and `.reason` says why; `layer` names another, or several, whose maps are averaged.

    `output` names the output that holds the scores, where there are several, and `scores` what is made of them
    (softmax, sigmoid, exp, given, none). For a score at every place (segmentation) the map is of the places where the
    class wins, of the pixel `at` (x, y) or of those in `mask` [H, W]. `like` is another image, [C, H, W]: the map tells
    what makes the two embeddings alike.

    The model runs in eval mode, where `x` is, and is left as it was. Raises BadInput for a model without scores, a
    class or layer that it does not have, ModelRaised for what the model itself raises.
    """
    images = x[None] if x.dim() == 3 else x
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        shape = "x".join(map(str, x.shape))
        raise BadInput(f"cam takes images of floats, [C, H, W] or [B, C, H, W], not {shape} {x.dtype}", "x[None]")
    name = type(model).__name__

    def classes_of(row: Tensor) -> tuple[Target, ...]:
        if callable(target) or like is not None:
            return (Target(0, against),)
        chosen = int(row.argmax()) if target is None else target
        check_class(chosen, len(row), name)
        return (Target(chosen, against),)

    how = Scores(model, ScoreOptions(scores, None if output is None else str(output)))
    region = Region(at, mask) if at is not None or mask is not None else None
    other = None if like is None else embedding_of(model, like[None] if like.dim() == 3 else like, how)
    names = () if layer is None else (layer,) if isinstance(layer, str) else tuple(layer)
    read = target if callable(target) else None
    mapper = ClassMapper(model, methods_of([method]), names, how, region=region, like=other, read=read)
    found, _ = mapper.maps(images, classes_of)
    return found[0][0] if len(images) == 1 else [one for (one,) in found]


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


def cam_of_files(
    request: ImageModelRequest, asked: CamOptions, images: Sequence[str], folder: Path | None, force: bool
) -> CamResult:
    """The maps of the images that these paths, directories and wildcards name, written to `folder` if one is given."""
    colour_map(asked.cmap)  # a mistake in it is told before anything is computed
    files = find_images(images)
    model = load_image_model(request)
    return write_result(folder, force, lambda place: run_cam(model, asked, files, place, working))


def run_cam(
    model: ImageModel, asked: CamOptions, files: Sequence[Path], folder: Path | None, progress: Progress
) -> CamResult:
    """The maps of every image, drawn into `folder` where one is given."""
    scores = Scores(model.model, asked.scores)
    like = None if asked.like is None else embedding_of(model.model, model.image(open_image(asked.like), "cam"), scores)
    mapper = ClassMapper(model.model, asked.methods, asked.layers, scores, region=asked.region, like=like)
    entries: list[CamEntry] = []
    comparisons: list[tuple[str, str]] = []
    notes: list[Note] = []
    remarks = Remarks()
    choices: tuple[Choice, ...] = ()

    named = model.labels

    def classes_of(row: Tensor) -> Sequence[Target]:
        nonlocal named
        named = model.labels.for_classes(len(row))
        return (Target(0),) if like is not None else _classes(model, asked.targets, row)

    def tensors() -> Iterator[tuple[str, Photo, Tensor]]:
        for stem, photo in each_photo(model, files, progress, notes):
            yield stem, photo, model.image(photo, "cam")

    for batch in in_batches(tensors(), model.batch):
        maps, choices = mapped(mapper, torch.cat([image for _, _, image in batch]), classes_of)
        for (stem, photo, _), found in zip(batch, maps, strict=True):
            labels = [named.of(one.target) if like is None else f"like {asked.like}" for one in found]
            listed = tuple(
                entry_of(photo.path.name, one, f"not {label}" if one.against else label)
                for one, label in zip(found, labels, strict=True)
            )
            remarks.add(photo.path.name, found, labels)
            if folder is not None:
                drawn = ImageMaps(stem, model.preprocessing.seen(photo), found, listed)
                listed, sheet = draw_class_maps(drawn, folder, asked.cmap)
                comparisons += [(photo.path.name, sheet)] if sheet else []
            entries += listed
    said = (*model.notes, *scores.notes, *notes, *remarks.notes(), *_closing(choices, folder))
    return CamResult(
        model=model.name,
        weights=model.weights.plain(),
        head=model.weights.fact(),
        preprocessing=model.preprocessing.describe(),
        scores="similarity of embeddings" if like is not None else scores.describe(),
        layer=", ".join(choice.layer.path for choice in choices),
        reason="; ".join(dict.fromkeys(choice.reason for choice in choices)),
        entries=tuple(entries),
        comparisons=tuple(comparisons),
        notes=said,
        env=model.env,
    )


def mapped(
    mapper: ClassMapper, images: Tensor, classes_of: ClassesOf
) -> tuple[list[tuple[ClassMap, ...]], tuple[Choice, ...]]:
    """The maps of a batch; image by image where the model takes no batch."""
    try:
        return mapper.maps(images, classes_of)
    except (ModelRaised, BadInput):
        if len(images) == 1:
            raise
    found: list[tuple[ClassMap, ...]] = []
    choices: tuple[Choice, ...] = ()
    for image in images.split(1):
        (maps,), choices = mapper.maps(image, classes_of)
        found.append(maps)
    return found, choices


def _classes(model: ImageModel, texts: Sequence[str], scores: Tensor) -> tuple[Target, ...]:
    """The classes that `texts` name, by index or label, `-3` the lower value; the top prediction when there are none."""
    labels = model.labels.for_classes(len(scores))
    found = []
    for text in texts:
        against = text.startswith("-") and text[1:].isdecimal()
        index = labels.find(text[1:] if against else text)
        check_class(index, len(scores), model.name)
        found.append(Target(index, against))
    return tuple(dict.fromkeys(found)) or (Target(int(scores.argmax())),)


def _closing(choices: Sequence[Choice], folder: Path | None) -> list[Note]:
    notes = [
        Note(
            f"No single layer carries everything from the image to the scores: at {choice.layer.path} the map shows a "
            "part. --layers names another.",
            Level.ASSUMED,
        )
        for choice in choices
        if not choice.whole
    ]
    if folder is None:
        notes.append(Note("Nothing was drawn: -o DIR writes images and arrays.", Level.INFO))
    return notes
