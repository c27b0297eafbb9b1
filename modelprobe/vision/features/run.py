"""`features` at work: a model looks at images; what its layers put out is measured, drawn and stored."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelprobe.errors import BadInput
from modelprobe.files.directory import Folder, file_name
from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.report.blocks import Fact, Level, Note
from modelprobe.tracing.capture import captured_until, check_captured, chosen_layers, first_names
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.tensors import shapes
from modelprobe.vision.features.drawing import Drawing, pictures_of, preview_of
from modelprobe.vision.features.embed import EMBEDDED, pooled_over_places, write_embeddings
from modelprobe.vision.features.features import (
    MOST_PREVIEWS,
    DrawnImage,
    FeaturesResult,
    LayerFeature,
    LayerList,
    PictureFeatures,
    as_figures,
    guess_notes,
    notes_on,
    of_json,
    over_all,
)
from modelprobe.vision.features.maps import LayerMaps, layer_maps
from modelprobe.vision.features.outputs import LayerOutput, LayerOutputs, Layout, guessed_layout
from modelprobe.vision.features.pca import (
    FEWEST_CHANNELS,
    FEWEST_PLACES,
    StoredMaps,
    colour_basis,
    components_picture,
)
from modelprobe.vision.features.stats import stats_of
from modelprobe.vision.features.tensor_files import serialised
from modelprobe.vision.gallery import write_pages
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import UnreadableError
from modelprobe.vision.pictures.canvas import png
from modelprobe.vision.pictures.colour import AUTO, colour_map
from modelprobe.vision.pictures.heat import heat_map
from modelprobe.vision.together import equal, near
from modelprobe.vision.walk import Command, ImagePlace, Shown, Walked, joined, walk_images

if TYPE_CHECKING:
    from torch import Tensor

Survey = tuple[dict[tuple[str, int, int], LayerOutput], tuple[str, int] | None]
"""Where the outputs of a size of input stand, and the last call that is wanted."""


@dataclass(frozen=True)
class FeaturesOptions:
    """What the command line said beside the model."""

    model: ImageModelRequest
    images: Sequence[str] = ()
    layers: Sequence[str] = ()
    drawing: Drawing = field(default_factory=Drawing)
    directory: Path | None = None
    save: str | None = None
    force: bool = False
    embed: bool = False


def run_features(asked: FeaturesOptions) -> FeaturesResult:
    """Look at every image and say what was seen. Raises ProbeError for what keeps it from looking at any."""
    if asked.drawing.cmap != AUTO:
        colour_map(asked.drawing.cmap)  # a mistake in it is told before anything is computed
    files = asked.model.find_files(asked.images) if asked.images else []
    said = {**vars(asked.drawing), "layers": list(asked.layers), "save": asked.save, "embed": asked.embed}
    folder = asked.model.folder("features", said, asked.directory, asked.force)
    model = load_image_model(asked.model)
    run = FeatureRun(model, *chosen_layers(model.model, asked.layers), asked)
    return run.result(walk_images(model, [*files, *model.own_files], run, folder), folder)


class FeatureRun(Command[tuple[LayerFeature, ...]]):
    """One model with its chosen layers. Their places are found once for every size of input."""

    def __init__(self, model: ImageModel, paths: Sequence[str], exact: Sequence[str], asked: FeaturesOptions) -> None:
        self.model, self.paths, self.exact, self.asked = model, paths, exact, asked
        self.first = first_names(model.model)
        self.vectors: dict[str, Mapping[str, Any]] = {}
        self.previews: dict[str, Any] = {}
        self._memory: dict[str, Tensor] = {}
        self._surveys: dict[Any, Survey] = {}
        self._split_along: dict[Any, Mapping[str, int]] = {}

    # One forward pass

    def look(self, batch: Sequence[Shown]) -> list[Mapping[str, Tensor]]:
        """What the layers put out for each image. Raises BadInput where a batch cannot be told apart."""
        if len(batch) == 1:
            return [self._captured(batch[0].arguments, self._memory)]
        first = batch[0].arguments
        other = next((one for one in batch[1:] if not equal(first, one.arguments)), None)
        if other is None:
            return [self._captured(one.arguments, {}) for one in batch]
        together = self._captured(joined(batch), self._memory, first)
        size = shapes(first), len(batch)
        if size not in self._split_along:
            alone = self._captured(other.arguments, {})
            self._split_along[size] = _split_along(together, alone, batch.index(other), len(batch))
        dims = self._split_along[size]
        parts = {name: tensor.chunk(len(batch), dims[name]) for name, tensor in together.items()}
        return [{name: tensors[at] for name, tensors in parts.items()} for at in range(len(batch))]

    def survey(self, arguments: Any) -> Survey:
        """Where the outputs of this size of input stand, recorded on meta."""
        size = shapes(arguments)
        if size not in self._surveys:
            wanted = {self.first[path]: path for path in self.paths}
            outputs = LayerOutputs()
            trace(self.model.model, *arguments, follow=outputs)
            found = [output for output in outputs.layouts() if output.path in wanted]
            last = (wanted[found[-1].path], found[-1].call) if found else None
            self._surveys[size] = {(place.path, place.call, place.index): place for place in found}, last
        return self._surveys[size]

    def _captured(self, arguments: Any, memory: dict[str, Tensor], one: Any = None) -> Mapping[str, Tensor]:
        places, until = self.survey(arguments if one is None else one)
        with model_errors():
            captured = captured_until(self.model.model, arguments, self.paths, until, memory)
            self.model.draws.look()
        check_captured(self.model.model, captured, self.exact)
        if not captured:
            raise BadInput("none of the layers put out a tensor", "--list shows the layers that do")
        self._origins, self._places = captured.origins, places
        return captured

    # One image

    def keep(self, shown: Shown, found: Mapping[str, Tensor], place: ImagePlace) -> tuple[LayerFeature, ...]:
        """Its layers, measured, drawn and stored."""
        if place.folder is not None and self.asked.save is not None:
            place.write(f"features.{self.asked.save}", serialised(found, self.asked.save))
        if place.folder is not None and self.asked.embed:
            self._embed(found, shown.image, place)
        taken: set[str] = set()
        return tuple(self._layer(name, found[name], shown, place, taken) for name in found)

    def known(self, values: Any, place: ImagePlace) -> tuple[LayerFeature, ...]:
        """The layers of an image that was complete before."""
        layers = of_json(values)
        if self.asked.embed and place.folder is not None:
            with np.load(place.folder.path / place.piece / EMBEDDED) as held:
                self.vectors[place.piece] = dict(held)
        return layers

    def _layer(self, name: str, tensor: Tensor, shown: Shown, place: ImagePlace, taken: set[str]) -> LayerFeature:
        path, call, _ = self._origins[name]
        output, layout = self._layout(name, tensor)
        drawn: list[DrawnImage] = []
        first = name not in self.previews and len(self.previews) < MOST_PREVIEWS
        if place.folder is not None or first:
            maps = layer_maps(tensor, layout)
            if first:
                self.previews[name] = preview_of(maps, self.asked.drawing.cmap)
            if place.folder is not None:
                stem, about = file_name(name, taken), shown.photo.path.name
                for one in pictures_of(maps, shown.seen, name, about, self.asked.drawing):
                    drawn.append(DrawnImage(one.kind, place.draw(f"{stem}.{one.kind}", one.image), one.caption))
                drawn += self._for_components(maps, stem, place)
        return LayerFeature(
            name, path, output.cls if output else "", call, tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."), layout.describe(), layout.how != "operators",
            stats_of(tensor, layout.channels), tuple(drawn),
        )  # fmt: skip

    def _for_components(self, maps: LayerMaps, stem: str, place: ImagePlace) -> list[DrawnImage]:
        """The maps stored; their picture is drawn when those of all images are there."""
        count, *size = maps.channels.shape
        few = count < FEWEST_CHANNELS or math.prod(size) < FEWEST_PLACES
        if not self.asked.drawing.pca or maps.unit != "channel" or few:
            return []
        out = io.BytesIO()
        np.save(out, maps.channels, allow_pickle=False)
        stored = place.write(f"{stem}.pca.npy", out.getvalue())
        return [
            DrawnImage(
                "pca", f"{stored.removesuffix('.npy')}.png", "principal components of its channels, of all images"
            )
        ]

    def _draw_components(self, done: Sequence[PictureFeatures], folder: Folder) -> None:
        """One basis for each layer over all images: like features have like colors in all of them."""
        layers: dict[str, list[tuple[str, str]]] = {}
        for picture in done:
            for layer in picture.layers:
                for one in layer.drawn:
                    if one.kind == "pca":
                        layers.setdefault(layer.name, []).append((picture.image, one.path))
        for name, drawn in layers.items():
            stored = StoredMaps([folder.path / f"{path.removesuffix('.png')}.npy" for _, path in drawn])
            basis = colour_basis(stored)
            for (image, path), channels in zip(drawn, stored, strict=True):
                if basis is not None and np.isfinite(channels).all():
                    picture_ = components_picture(channels, basis, name, Path(image).name)
                else:
                    picture_ = heat_map(channels.mean(0), f"{name}: no components", "all places are alike")
                folder.write(path, png(picture_, self.model.stamp))

    def _layout(self, name: str, tensor: Tensor) -> tuple[LayerOutput | None, Layout]:
        path, call, index = self._origins[name]
        output = self._places.get((self.first[path], call, index))
        shape = tuple(tensor.shape)
        return output, output.layout if output and output.shape == shape else guessed_layout(shape, ())

    def _embed(self, found: Mapping[str, Tensor], image: str, place: ImagePlace) -> None:
        vectors = {name: pooled_over_places(found[name], self._layout(name, found[name])[1]) for name in found}
        known = next(iter(self.vectors.values()), vectors)
        for layer, vector in vectors.items():
            if layer not in known or known[layer].shape != vector.shape:
                raise UnreadableError(f"{layer} has {len(vector)} numbers for {image}, and others for the first image",
                                      "give all images one size, with --input or --no-crop")  # fmt: skip
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **vectors)
        place.write(EMBEDDED, out.getvalue())
        self.vectors[place.piece] = vectors

    # All images

    def result(self, walked: Walked[tuple[LayerFeature, ...]], folder: Folder | None) -> FeaturesResult:
        """The answer, with its page and its report in the folder."""
        done = tuple(
            PictureFeatures(one.image, one.kept or (), one.error, one.folder, one.resumed) for one in walked.images
        )
        layers = over_all(done)
        first = next(picture for picture in done if not picture.error)
        pieces = [one for one in done if one.folder in self.vectors]
        vectors = {one.image: (one.folder, self.vectors[one.folder]) for one in pieces}
        notes = (
            *self.model.notes,
            *walked.notes,
            *self._input_notes(),
            *notes_on(layers),
            *(write_embeddings(vectors, folder) if self.asked.embed and folder is not None else ()),
            *self.model.join_frames(folder, walked.images),
        )
        if folder is not None:
            self._draw_components(done, folder)
        directory = folder.path if folder is not None else Path()
        weights, seeing = self.model.weights.plain(), self.model.preprocessing.describe()
        result = FeaturesResult(
            self.model.name, weights, seeing, done, layers, str(folder.path) if folder is not None else "", notes,
            self.model.env, self._facts(done, folder), as_figures(first, directory, self.previews),
        )  # fmt: skip
        if folder is not None:
            write_pages(folder, result.report(), [picture.section() for picture in done])
        return result

    def _input_notes(self) -> Iterator[Note]:
        if not (self.asked.images or self.model.own_files):
            yield Note("No image was given: seeded noise was looked at (--image).", Level.ASSUMED)
        if self.asked.directory is None:
            yield Note("-o DIR writes the images: grids of channels, heat maps, overlays, a gallery page.", Level.INFO)

    def _facts(self, done: Sequence[PictureFeatures], folder: Folder | None) -> tuple[Fact, ...]:
        good = [picture for picture in done if not picture.error]
        images = good[0].image if len(done) == 1 else f"{len(good):,} of {len(done):,}"
        seeing = Fact("Input", self.model.preprocessing.describe())
        return self.model.weights.fact(), Fact("Images", images), *self.model.written(folder), seeing


def _split_along(together: Mapping[str, Tensor], alone: Mapping[str, Tensor], at: int, count: int) -> dict[str, int]:
    """The dimension of each layer along which the images of a batch lie one after the other, found by comparison.

    Raises BadInput where image number `at` of `count` cannot be found again.
    """
    found = {}
    for name in together.keys() | alone.keys():
        many, one = together.get(name), alone.get(name)
        dim = -1
        if many is not None and one is not None and many.dim() == one.dim():
            grown = [d for d in range(one.dim()) if many.shape[d] != one.shape[d]]
            dim = grown[0] if len(grown) == 1 and many.shape[grown[0]] == count * one.shape[grown[0]] else -1
        if dim < 0 or many is None or one is None or not near(many.chunk(count, dim)[at], one):
            raise BadInput(f"the images of a batch cannot be told apart in what {name} puts out", "--batch 1")
        found[name] = dim
    return found


def list_layers(request: TargetRequest) -> LayerList:
    """The layers that run, with what they put out; recorded on meta, without weights."""
    loaded = load_model(replace(request, weights=None))
    outputs = LayerOutputs()
    recorded = record(loaded, follow=outputs)
    facts = (Fact("Input", ", ".join(str(item) for item in recorded.env["inputs"])),)
    found = outputs.layouts()
    guessed = dict.fromkeys(output.path for output in found if output.layout.how != "operators")
    notes = (*recorded.notes, *guess_notes(list(guessed)))
    return LayerList(loaded.target.name, found, notes, recorded.env, facts)
