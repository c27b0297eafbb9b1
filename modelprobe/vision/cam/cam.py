"""Class activation maps of images: the layer chosen, the maps computed and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.files.directory import Folder
from modelprobe.model.inputs.first_layer import without_wrappers
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.module_tree import check_module
from modelprobe.tracing.restore import seeded_eval
from modelprobe.vision.cam.drawing import ImageMaps, draw_class_maps
from modelprobe.vision.cam.judge import Judgement, judge_map
from modelprobe.vision.cam.layer import Choice
from modelprobe.vision.cam.mapper import ClassMapper, Region, check_class, embedding_of
from modelprobe.vision.cam.methods import ClassMap, ScoreTarget, check_method
from modelprobe.vision.cam.result import (
    CamEntry,
    CamResult,
    entry_of,
    map_panels,
    remark_notes,
)
from modelprobe.vision.gallery import sections_of, write_pages
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import as_batch, open_image
from modelprobe.vision.pictures.colour import colour_map
from modelprobe.vision.scores import ScoreOptions, Scores
from modelprobe.vision.together import Together, one_of_others
from modelprobe.vision.walk import Command, ImagePlace, Shown, Walked, joined, walk_images


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
    judge: bool = False


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
    returned; or videos, [B, C, T, H, W], whose maps are [T, H, W], signals, [C, L], or volumes, [C, D, H, W]. `target`
    is an index, by default the top prediction, or a function from the model's output to a score for each image;
    `against` asks for what lowers it. `method` is one of gradcam, gradcam++, layercam, hirescam, eigencam, scorecam,
    guided-gradcam, integrated-gradients, saliency, occlusion. The layer is chosen by the paths from the image to the
    scores, and `.reason` says why; `layer` names another, or several, whose maps are averaged.

    `output` names the output that holds the scores, where there are several, and `scores` what is made of them
    (softmax, sigmoid, exp, given, none). For a score at every place (segmentation) the map is of the places where the
    class wins, of the pixel `at` (x, y) or of those in `mask` [H, W]. `like` is another image, [C, H, W]: the map tells
    what makes the two embeddings alike.

    The model runs in eval mode, where `x` is, and is left as it was. Where what it says of an image depends on the
    others in `x`, images are looked at one by one. Raises BadInput for a model without scores, a class or layer that it
    does not have, ModelRaised for what the model itself raises.
    """
    check_module(model, "cam")
    model = without_wrappers(model)
    if at is not None and mask is not None:
        raise BadInput("at and mask both say where", "give one of them")
    region = Region(at, mask) if at is not None or mask is not None else None
    how = Scores(model, ScoreOptions(scores, None if output is None else str(output)))
    names = () if layer is None else (layer,) if isinstance(layer, str) else tuple(layer)
    read = target if callable(target) else None
    other = None if like is None else embedding_of(model, like[None] if like.dim() == 3 else like, how)
    mapper = ClassMapper(model, methods_of([method]), names, how, region=region, like=other, read=read)
    one = ScoreTarget(0, against) if read is not None or like is not None else None
    images, index = as_batch(x, "cam", model), None if callable(target) else target
    with seeded_eval(model):
        return _maps_of_tensor(mapper, images, type(model).__name__, one, index, against)


def _maps_of_tensor(
    mapper: ClassMapper, images: Tensor, name: str, one: ScoreTarget | None, target: int | None, against: bool
) -> Any:

    def classes_of(row: Tensor) -> tuple[ScoreTarget, ...]:
        if one is not None:
            return (one,)
        chosen = int(row.argmax()) if target is None else target
        check_class(chosen, len(row), name)
        return (ScoreTarget(chosen, against),)

    found, _ = mapper.maps(images, classes_of)
    other = one_of_others(images)
    if other is not None and mapper.depends_on_others(images[other : other + 1], classes_of, found[other][0]):
        found = [mapper.maps(image, classes_of)[0][0] for image in torch.split(images, 1)]
    return found[0][0] if len(images) == 1 else [maps[0] for maps in found]


def cam_of_files(
    request: ImageModelRequest, asked: CamOptions, images: Sequence[str], path: Path | None = None, force: bool = False
) -> CamResult:
    """The maps of the images that these paths, directories and wildcards name, written to `path` if one is given."""
    colour_map(asked.cmap)  # a mistake in it is told before anything is computed
    files = request.find_files(images)
    region = None if asked.region is None else asked.region.describe()
    folder = request.folder("cam", {**vars(asked), "region": region}, path, force)
    model = load_image_model(request)
    run = CamRun(model, asked)
    return run.result(walk_images(model, [*files, *model.own_files], run, folder), folder)


class CamRun(Command[tuple[CamEntry, ...]]):
    """The maps of images, one batch after the other."""

    entry = CamEntry

    def __init__(self, model: ImageModel, asked: CamOptions) -> None:
        self.model, self._asked = model, asked
        self.scores = Scores(model.model, asked.scores)
        self.like: Tensor | None = None
        if asked.like is not None:
            photo = model.open(asked.like)
            self.like = embedding_of(model.model, model.image(model.arguments(photo), "cam"), self.scores)
        self.mapper = ClassMapper(
            model.model, asked.methods, asked.layers, self.scores, region=asked.region, like=self.like
        )
        self._choices: tuple[Choice, ...] = ()
        self._together = Together()
        self._labels = model.labels

    def look(self, batch: Sequence[Shown]) -> list[tuple[ClassMap, ...]]:
        """The maps of each image."""
        found = self._maps(joined(batch))
        if len(batch) > 1:
            self._together.check(
                batch, [maps[0].map for maps in found], lambda one: self._maps(one.arguments)[0][0].map
            )
        return found

    def _maps(self, arguments: Any) -> list[tuple[ClassMap, ...]]:
        found, self._choices = self.mapper.maps(self.model.image(arguments, "cam"), self.classes_of)
        return found

    def classes_of(self, scores: Tensor) -> Sequence[ScoreTarget]:
        """What maps are made for, given the scores of an image."""
        self._labels = self.model.labels.for_classes(len(scores))
        return (ScoreTarget(0),) if self.like is not None else _classes(self.model, self._asked.targets, scores)

    def keep(self, shown: Shown, maps: tuple[ClassMap, ...], place: ImagePlace) -> tuple[CamEntry, ...]:
        """The maps of an image: listed, judged, and drawn where there is a directory."""
        alike = f"like {self._asked.like}"
        labels = [alike if self.like is not None else self._labels.of(one.target) for one in maps]
        said = [f"not {label}" if one.against else label for one, label in zip(maps, labels, strict=True)]
        name = shown.photo.path.name
        listed = tuple(entry_of(name, one, label) for one, label in zip(maps, said, strict=True))
        judged: tuple[Judgement, ...] = ()
        if self._asked.judge:
            judged = tuple(
                judge_map(self.model.model, shown.arguments[0], one.map, one.target, self.scores, self._asked.region)
                for one in maps
            )
            listed = tuple(
                replace(entry, deletion=one.deletion, insertion=one.insertion)
                for entry, one in zip(listed, judged, strict=True)
            )
        if place.folder is None:
            return listed
        image = shown.arguments[0][0]
        signal = image.float().cpu().numpy() if image.dim() == 2 else None
        frames = self.model.preprocessing.seen_frames(shown.photo) if image.dim() == 4 else ()
        return draw_class_maps(ImageMaps(shown.seen, maps, listed, judged, frames, signal), place, self._asked.cmap)

    def facts(self) -> dict[str, Any]:
        """How the scores were read, and which layer was taken."""
        part = "No single layer carries everything from the image to the scores: at {} the map shows a part."
        apart = [choice.layer.path for choice in self._choices if not choice.whole]
        notes = [Note(f"{part.format(path)} --layers names another.", Level.ASSUMED) for path in apart]
        return {
            "scores": "similarity of embeddings" if self.like is not None else self.scores.describe(),
            "layer": ", ".join(choice.layer.path for choice in self._choices),
            "reason": "; ".join(dict.fromkeys(choice.reason for choice in self._choices)),
            "notes": [*self.scores.notes, *notes],
        }

    def result(self, walked: Walked[tuple[CamEntry, ...]], folder: Folder | None) -> CamResult:
        """The answer, with its page and its report in the folder."""
        entries = tuple(entry for kept in walked.kept for entry in kept)
        notes = (*walked.notes, *remark_notes(entries), *self.model.closing_notes(folder, walked.images))
        facts = {key: value for key, value in walked.facts.items() if key != "notes"}
        result = CamResult(**self.model.described(folder, notes), **facts, entries=entries)
        if folder is not None:
            write_pages(folder, result.report(), sections_of(walked, map_panels))
        return result


def _classes(model: ImageModel, texts: Sequence[str], scores: Tensor) -> tuple[ScoreTarget, ...]:
    """The classes that `texts` name, by index or label, `-3` for the lower value; the top one when there are none."""
    labels = model.labels.for_classes(len(scores))
    found = []
    for text in texts:
        against = text.startswith("-") and text[1:].isdecimal()
        index = labels.find(text[1:] if against else text)
        check_class(index, len(scores), model.name)
        found.append(ScoreTarget(index, against, asked=True))
    return tuple(dict.fromkeys(found)) or (ScoreTarget(int(scores.argmax())),)
