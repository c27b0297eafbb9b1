"""Class activation maps of images: the layer chosen, the maps computed and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.console import working
from modelprobe.errors import BadInput, ModelRaised
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.cam.judge import Judgement, judge_map
from modelprobe.vision.cam.layer import Choice
from modelprobe.vision.cam.mapper import ClassesOf, ClassMapper, Region, check_class, embedding_of
from modelprobe.vision.cam.methods import ClassMap, ScoreTarget, check_method
from modelprobe.vision.cam.result import CamEntry, CamResult, ImageMaps, Remarks, draw_class_maps, entry_of
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import Photo, open_image
from modelprobe.vision.photos import Progress, each_photo, in_batches, write_result
from modelprobe.vision.pictures.colour import colour_map
from modelprobe.vision.scores import ScoreOptions, Scores


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
    region = Region(at, mask) if at is not None or mask is not None else None
    how = Scores(model, ScoreOptions(scores, None if output is None else str(output)))
    names = () if layer is None else (layer,) if isinstance(layer, str) else tuple(layer)
    read = target if callable(target) else None
    other = None if like is None else embedding_of(model, like[None] if like.dim() == 3 else like, how)
    mapper = ClassMapper(model, methods_of([method]), names, how, region=region, like=other, read=read)
    one = ScoreTarget(0, against) if read is not None or like is not None else None
    return _maps_of_tensor(mapper, x, type(model).__name__, one, None if callable(target) else target, against)


def _maps_of_tensor(
    mapper: ClassMapper, x: Tensor, name: str, one: ScoreTarget | None, target: int | None, against: bool
) -> Any:
    images = x[None] if x.dim() == 3 else x
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        shape = "x".join(map(str, x.shape))
        raise BadInput(f"cam takes images of floats, [C, H, W] or [B, C, H, W], not {shape} {x.dtype}", "x[None]")

    def classes_of(row: Tensor) -> tuple[ScoreTarget, ...]:
        if one is not None:
            return (one,)
        chosen = int(row.argmax()) if target is None else target
        check_class(chosen, len(row), name)
        return (ScoreTarget(chosen, against),)

    found, _ = mapper.maps(images, classes_of)
    return found[0][0] if len(images) == 1 else [maps[0] for maps in found]


def cam_of_files(
    request: ImageModelRequest, asked: CamOptions, images: Sequence[str], folder: Path | None, force: bool
) -> CamResult:
    """The maps of the images that these paths, directories and wildcards name, written to `folder` if one is given."""
    colour_map(asked.cmap)  # a mistake in it is told before anything is computed
    files = request.find_files(images)
    model = load_image_model(request)
    files += model.frame_files
    return write_result(folder, force, lambda place: run_cam(model, asked, files, place, working))


def run_cam(
    model: ImageModel, asked: CamOptions, files: Sequence[Path], folder: Path | None, progress: Progress
) -> CamResult:
    """The maps of every image, drawn into `folder` where one is given."""
    run = _CamRun(model, asked, folder)
    notes: list[Note] = []
    choices: tuple[Choice, ...] = ()
    for batch in in_batches(run.tensors(each_photo(model, files, progress, notes)), model.batch):
        maps, choices = mapped(run.mapper, torch.cat([image for _, _, image in batch]), run.classes_of)
        for (stem, photo, image), found in zip(batch, maps, strict=True):
            run.add(stem, photo, found, image)
    return CamResult(
        model=model.name,
        weights=model.weights.plain(),
        head=model.weights.fact(),
        preprocessing=model.preprocessing.describe(),
        scores="similarity of embeddings" if run.like is not None else run.scores.describe(),
        layer=", ".join(choice.layer.path for choice in choices),
        reason="; ".join(dict.fromkeys(choice.reason for choice in choices)),
        entries=tuple(run.entries),
        comparisons=tuple(run.comparisons),
        notes=(
            *model.notes,
            *run.scores.notes,
            *notes,
            *run.remarks.notes(),
            *_closing(choices, folder),
            *model.join_frames(folder),
        ),
        env=model.env,
    )


class _CamRun:
    """What is gathered over the images."""

    def __init__(self, model: ImageModel, asked: CamOptions, folder: Path | None) -> None:
        self.model, self._asked, self._folder = model, asked, folder
        self.scores = Scores(model.model, asked.scores)
        self.like: Tensor | None = None
        if asked.like is not None:
            photo = model.open(asked.like)
            self.like = embedding_of(model.model, model.image(photo, "cam"), self.scores)
        self.mapper = ClassMapper(
            model.model, asked.methods, asked.layers, self.scores, region=asked.region, like=self.like
        )
        self.entries: list[CamEntry] = []
        self.comparisons: list[tuple[str, str]] = []
        self.remarks = Remarks()
        self._labels = model.labels

    def tensors(self, photos: Iterable[tuple[str, Photo]]) -> Iterator[tuple[str, Photo, Tensor]]:
        """The images as the model takes them."""
        for stem, photo in photos:
            yield stem, photo, self.model.image(photo, "cam")

    def classes_of(self, scores: Tensor) -> Sequence[ScoreTarget]:
        """What maps are made for, given the scores of an image."""
        self._labels = self.model.labels.for_classes(len(scores))
        return (ScoreTarget(0),) if self.like is not None else _classes(self.model, self._asked.targets, scores)

    def add(self, stem: str, photo: Photo, maps: tuple[ClassMap, ...], image: Tensor) -> None:
        """The maps of an image: listed, and drawn where there is a directory."""
        alike = f"like {self._asked.like}"
        labels = [alike if self.like is not None else self._labels.of(one.target) for one in maps]
        shown = [f"not {label}" if one.against else label for one, label in zip(maps, labels, strict=True)]
        listed = tuple(entry_of(photo.path.name, one, label) for one, label in zip(maps, shown, strict=True))
        self.remarks.add(photo.path.name, maps, shown)
        judged: tuple[Judgement, ...] = ()
        if self._asked.judge:
            judged = tuple(judge_map(self.model.model, image, one.map, one.target, self.scores) for one in maps)
            listed = tuple(
                replace(entry, deletion=one.deletion, insertion=one.insertion)
                for entry, one in zip(listed, judged, strict=True)
            )
        if self._folder is not None:
            drawn = ImageMaps(stem, self.model.preprocessing.seen(photo), maps, listed, judged, self.model.stamp)
            listed, sheet = draw_class_maps(drawn, self._folder, self._asked.cmap)
            self.comparisons += [(photo.path.name, sheet)] if sheet else []
        self.entries += listed


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
    for index in range(len(images)):
        (maps,), choices = mapper.maps(images[index : index + 1], classes_of)
        found.append(maps)
    return found, choices


def _classes(model: ImageModel, texts: Sequence[str], scores: Tensor) -> tuple[ScoreTarget, ...]:
    """The classes that `texts` name, by index or label, `-3` for the lower value; the top one when there are none."""
    labels = model.labels.for_classes(len(scores))
    found = []
    for text in texts:
        against = text.startswith("-") and text[1:].isdecimal()
        index = labels.find(text[1:] if against else text)
        check_class(index, len(scores), model.name)
        found.append(ScoreTarget(index, against))
    return tuple(dict.fromkeys(found)) or (ScoreTarget(int(scores.argmax())),)


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
