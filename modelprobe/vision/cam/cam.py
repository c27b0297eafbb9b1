"""Class activation maps of images: the layer chosen, the maps computed and drawn."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from modelprobe.console import working
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.cam.layer import Choice, ImageLayout, LayerGradients, choose_layer, lay_out
from modelprobe.vision.cam.methods import CAM_METHODS, LAYERED, ClassMap, class_map, scores
from modelprobe.vision.cam.result import CamEntry, CamResult, ImageMaps, draw_class_maps, entry_of, remarks_of
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import find_images
from modelprobe.vision.logits import logits_of
from modelprobe.vision.photos import Progress, each_photo, write_result
from modelprobe.vision.pictures.colour import colour_map


@dataclass(frozen=True)
class CamOptions:
    """What the command line said about maps."""

    methods: tuple[str, ...]
    targets: tuple[str, ...]
    layer: str | None
    cmap: str


def methods_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The methods that `--method` names, each once; Grad-CAM when it names none. Raises BadInput for an unknown one."""
    names = [name.strip().lower() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CAM_METHODS:
            close = difflib.get_close_matches(name, CAM_METHODS, n=2, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}?" if close else f"choose of {', '.join(CAM_METHODS)}"
            raise BadInput(f"there is no method {name!r}", hint)
    return tuple(dict.fromkeys(names)) or ("gradcam",)


class ClassMapper:
    """Class activation maps of one model. The layer for images of each size is found once.

    The first image of a size takes two forward passes for its scores, the layer and its gradients.
    """

    def __init__(self, model: nn.Module, methods: Sequence[str], layer: str | None) -> None:
        self._model, self._methods, self._layer = model, methods, layer
        self._choices: dict[tuple[int, ...], Choice] = {}

    def maps(
        self, image: Tensor, classes_of: Callable[[Tensor], Sequence[int]]
    ) -> tuple[tuple[ClassMap, ...], Choice | None]:
        """The maps of an image [1, C, H, W], for each class each method, and the layer.

        `classes_of` names the classes, given the scores [classes]. Raises BadInput for a layer that will not do.
        """
        size, layered = tuple(image.shape), any(method in LAYERED for method in self._methods)
        layout = lay_out(self._model, image) if layered and size not in self._choices else None
        if layout is None:
            logits = scores(self._model, image)
        else:
            logits = logits_of(layout.output, self._model)[0].float().cpu()
        classes = tuple(classes_of(logits))
        known: LayerGradients | None = None
        if layout is not None and self._layer is not None:
            self._choices[size] = named_layer(self._model, self._layer, layout)
        elif layout is not None:
            self._choices[size], known = choose_layer(self._model, image, classes, layout)
        choice = self._choices.get(size) if layered else None
        found = tuple(
            class_map(self._model, image, index, method, choice, logits, known)
            for index in classes
            for method in self._methods
        )
        return found, choice


def named_layer(model: nn.Module, name: str, found: ImageLayout) -> Choice:
    """The last call of the layer called `name`. Raises BadInput when it is unknown, never ran, or is no grid."""
    known = [path for path, _ in model.named_modules() if path]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "`modelprobe summary` shows the layers"
        raise BadInput(f"there is no layer {name!r}", hint)
    if name not in found.ran:
        raise BadInput(f"the layer {name} never ran on this image", "leave --layers out: one is chosen")
    layers = [layer for layer in found.layers if layer.path == name]
    if not layers:
        what = found.other[name]
        shape = what.replace("x", "").isdigit()
        raise BadInput(
            f"the layer {name} puts out {what}, {'which is no grid of places' if shape else 'no tensor'}",
            "leave --layers out: one is chosen",
        )
    calls = f", its call {layers[-1].call + 1}" if layers[-1].call else ""
    return Choice(layers[-1], f"asked for{calls}: {layers[-1].grid.layout}")


def cam(
    model: nn.Module, x: Tensor, target: int | None = None, *, method: str = "gradcam", layer: str | None = None
) -> ClassMap:
    """Where `x` speaks for class `target` of a classifier: `.map` [H, W], a float32 tensor on the CPU, not negative.

    `x` is one image as the model takes it, [C, H, W] or [1, C, H, W]; `target` an index, by default the top prediction;
    `method` one of gradcam, layercam, guided-gradcam, integrated-gradients, saliency, occlusion. The layer is chosen by
    the paths from the image to the scores, and `.reason` says why; `layer` names another. The model runs in eval mode
    and is left as it was. Raises BadInput for a model that is no classifier, a class or layer that it does not have,
    ModelRaised for what the model itself raises.
    """
    image = x[None] if x.dim() == 3 else x
    if image.dim() != 4 or len(image) != 1 or not image.is_floating_point():
        shape = "x".join(map(str, x.shape))
        raise BadInput(f"cam takes one image of floats, [C, H, W] or [1, C, H, W], not {shape} {x.dtype}", "x[:1]")

    def classes_of(logits: Tensor) -> tuple[int, ...]:
        chosen = int(logits.argmax()) if target is None else target
        check_class(chosen, len(logits), type(model).__name__)
        return (chosen,)

    ((found,), _) = ClassMapper(model, methods_of([method]), layer).maps(image, classes_of)
    return found


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
    mapper = ClassMapper(model.model, asked.methods, asked.layer)
    entries: list[CamEntry] = []
    comparisons: list[tuple[str, str]] = []
    notes: list[Note] = []
    remarks: dict[Note, None] = {}
    choice: Choice | None = None
    for stem, photo in each_photo(model, files, progress, notes):
        maps, choice = mapper.maps(model.image(photo, "cam"), lambda logits: _classes(model, asked.targets, logits))
        listed, more = _entries_of(model, photo.path, maps)
        remarks.update(dict.fromkeys(more))
        if folder is not None:
            drawn = ImageMaps(stem, model.preprocessing.seen(photo), maps, listed)
            listed, sheet = draw_class_maps(drawn, folder, asked.cmap)
            comparisons += [(photo.path.name, sheet)] if sheet else []
        entries += listed
    said = (*model.notes, *notes, *remarks, *_closing(choice, folder))
    return CamResult(
        model=model.name,
        weights=model.weights.plain(),
        head=model.weights.fact(),
        preprocessing=model.preprocessing.describe(),
        layer=choice.layer.path if choice else "",
        reason=choice.reason if choice else "",
        entries=tuple(entries),
        comparisons=tuple(comparisons),
        notes=said,
        env=model.env,
    )


def _classes(model: ImageModel, texts: Sequence[str], logits: Tensor) -> tuple[int, ...]:
    """The classes that `texts` name, by index or label; the top prediction when there are none."""
    labels = model.labels.for_classes(len(logits))
    found = []
    for text in texts:
        index = labels.find(text)
        check_class(index, len(logits), model.name)
        found.append(index)
    return tuple(dict.fromkeys(found)) or (int(logits.argmax()),)


def _entries_of(
    model: ImageModel, file: Path, maps: Sequence[ClassMap]
) -> tuple[tuple[CamEntry, ...], tuple[Note, ...]]:
    names = [model.labels.of(found.target) for found in maps]
    entries = tuple(entry_of(file.name, found, label) for found, label in zip(maps, names, strict=True))
    return entries, remarks_of([(file.name, found) for found in maps], names)


def _closing(choice: Choice | None, folder: Path | None) -> list[Note]:
    notes = []
    if choice is not None and not choice.whole:
        notes.append(
            Note(
                f"No single layer carries everything from the image to the scores: at {choice.layer.path} the map "
                "shows a part. --layers names another.",
                Level.ASSUMED,
            )
        )
    if folder is None:
        notes.append(Note("Nothing was drawn: -o DIR writes images and arrays.", Level.INFO))
    return notes
