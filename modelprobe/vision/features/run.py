"""`features` at work: a model looks at one image after the other; what its layers put out is measured and drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelprobe.console import progress, stdout_kept
from modelprobe.errors import BadInput, ProbeError, one_line
from modelprobe.files.directory import CannotWriteError, Folder, file_name, open_folder
from modelprobe.report.blocks import Fact, Level, Note
from modelprobe.vision.features.drawing import Drawing, pictures_of, preview_of
from modelprobe.vision.features.embed import EMBEDDED, Embeddings, pooled_over_places
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.photos import noise

if TYPE_CHECKING:
    from torch import Tensor

    from modelprobe.model.build import TargetRequest
    from modelprobe.tracing.capture import Captured
    from modelprobe.vision.features.features import DrawnImage, FeaturesResult, LayerFeature, LayerList, PictureFeatures
    from modelprobe.vision.features.outputs import LayerOutput, Layout
    from modelprobe.vision.images import Photo


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

    def question(self, paths: Sequence[str]) -> dict[str, Any]:
        """What decides the contents of the output directory."""
        asked = {**vars(self.model.request), **vars(self.model.overrides)}
        model = {key: str(value) for key, value in asked.items()}
        return {
            "command": "features",
            **model,
            "layers": list(paths),
            **vars(self.drawing),
            "save": self.save,
            "embed": self.embed,
            "video": str(self.model.video),
        }


@stdout_kept()
def run_features(asked: FeaturesOptions) -> FeaturesResult:
    """Look at every image and say what was seen. Raises ProbeError for what keeps it from looking at any."""
    from modelprobe.tracing.capture import chosen_layers
    from modelprobe.vision.pictures.colour import colour_map

    colour_map(asked.drawing.cmap)  # a mistake in it is told before anything is computed
    files = asked.model.find_files(asked.images) if asked.images else []
    model = load_image_model(asked.model)
    files += model.frame_files
    paths, exact = chosen_layers(model.model, asked.layers)
    run_features = FeatureRun(model, paths, exact, asked)
    if len(files) == 1:
        model.open(files[0])  # the only image: what is wrong with it is an error
    folder = open_folder(asked.directory, asked.question(paths), asked.force) if asked.directory is not None else None
    return run_features.at(files, folder)


class FeatureRun:
    """One model with its chosen layers. Their places are found once for every size of input."""

    def __init__(self, model: ImageModel, paths: Sequence[str], exact: Sequence[str], asked: FeaturesOptions) -> None:
        self.model, self.paths, self.exact, self.asked = model, paths, exact, asked
        from modelprobe.tracing.capture import first_names

        self.first = first_names(model.model)
        self.embeddings = Embeddings()
        self._memory: dict[str, Tensor] = {}
        self.previews: dict[str, Any] = {}
        self.told: list[tuple[Path, Note]] = []
        self._surveys: dict[Any, tuple[dict[tuple[str, int, int], LayerOutput], tuple[str, int] | None]] = {}

    def at(self, files: Sequence[Path], folder: Folder | None) -> FeaturesResult:
        """Every image in turn; one that cannot be looked at is reported, and the others go on."""
        from modelprobe.vision.features.features import PictureFeatures

        done: list[PictureFeatures] = []
        names: set[str] = set()
        if not files:
            done.append(self._one(noise(self.model), "seeded noise", file_name("noise", names), folder, {}))
        with progress("looking at images", len(files)) as advance:
            for file in files:
                piece = file_name(file.stem, names)
                try:
                    done.append(self._file(file, piece, folder))
                except CannotWriteError:
                    raise
                except BadInput as error:
                    if len(files) == 1:
                        raise
                    done.append(PictureFeatures(str(file), error=error.message))
                advance()
        if not any(not picture.error for picture in done):
            raise BadInput(f"none of {len(done)} images could be looked at; the first: {done[0].error}",
                           "give images that Pillow can read")  # fmt: skip
        return self._result(done, folder)

    def _file(self, file: Path, piece: str, folder: Folder | None) -> PictureFeatures:
        about = _about(file)
        known = folder.record_of(piece, about) if folder is not None and folder.resumed else None
        if known is not None:
            from modelprobe.vision.features.features import PictureFeatures, of_json

            try:
                layers = of_json(known["values"])
                if self.asked.embed and folder is not None:
                    with np.load(folder.path / piece / EMBEDDED) as held:
                        self.embeddings.add(str(file), piece, dict(held))
                return PictureFeatures(str(file), layers, folder=piece, resumed=True)
            except (KeyError, TypeError, ValueError, OSError):
                pass  # written by another version: done anew
        return self._one(self.model.open(file), str(file), piece, folder, about)

    def _one(
        self, photo: Photo, image: str, piece: str, folder: Folder | None, about: Mapping[str, Any]
    ) -> PictureFeatures:
        """Run the model on one image, and measure and draw what was captured."""
        from modelprobe.report.blocks import plain
        from modelprobe.vision.features.features import PictureFeatures

        seeing = self.model.preprocessing
        self.told += [(photo.path, note) for note in seeing.notes_on(photo)]
        seen = seeing.seen(photo)
        arguments = self.model.arguments(photo, seen)
        places, until = self._survey(arguments)
        captured = self._captured(arguments, until)
        taken: set[str] = set()
        files = [self._save(captured, folder, piece)] if folder is not None and self.asked.save is not None else []
        if self.asked.embed and folder is not None:
            files.append(self._embed(captured, places, image, folder, piece))
        if folder is not None:
            from modelprobe.vision.pictures.canvas import png

            folder.write(f"{piece}/seen.png", png(seen.convert("RGB")))
            files.append("seen.png")
        layers = tuple(
            self._layer(name, captured, places, seen, photo.path.name, folder, piece, taken) for name in captured
        )
        files += [Path(one.path).name for layer in layers for one in layer.drawn]
        if folder is not None:
            folder.complete(piece, about, files, plain(layers))
        return PictureFeatures(image, layers, folder=piece if folder is not None else "")

    def _survey(self, arguments: Any) -> tuple[dict[tuple[str, int, int], LayerOutput], tuple[str, int] | None]:
        """Where the outputs of this size of input stand, and the last call that is wanted; recorded on meta."""
        from modelprobe.tracing.recorder import trace
        from modelprobe.tracing.tensors import shapes
        from modelprobe.vision.features.outputs import LayerOutputs

        size = shapes(arguments)
        if size not in self._surveys:
            wanted = {self.first[path] for path in self.paths}
            outputs = LayerOutputs()
            trace(self.model.model, *arguments, follow=outputs)
            found = [output for output in outputs.layouts() if output.path in wanted]
            named = {self.first[path]: path for path in self.paths}
            last = (named[found[-1].path], found[-1].call) if found else None
            self._surveys[size] = {(place.path, place.call, place.index): place for place in found}, last
        return self._surveys[size]

    def _captured(self, arguments: Any, until: tuple[str, int] | None) -> Captured:
        from modelprobe.errors import ModelRaised
        from modelprobe.tracing.capture import captured_until, check_captured

        try:
            captured = captured_until(self.model.model, arguments, self.paths, until, self._memory)
        except (ProbeError, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            raise ModelRaised(
                f"{self.model.name} raised {type(error).__name__}: {one_line(error)}", "--debug shows where"
            ) from error
        check_captured(self.model.model, captured, self.exact)
        if not captured:
            raise BadInput("none of the layers put out a tensor", "--list shows the layers that do")
        return captured

    def _layer(
        self,
        name: str,
        captured: Captured,
        places: Mapping[tuple[str, int, int], LayerOutput],
        seen: Any,
        picture: str,
        folder: Folder | None,
        piece: str,
        taken: set[str],
    ) -> LayerFeature:
        from modelprobe.vision.features.features import LayerFeature
        from modelprobe.vision.features.maps import layer_maps
        from modelprobe.vision.features.stats import stats_of

        tensor, (path, call, index) = captured[name], captured.origins[name]
        place = places.get((self.first[path], call, index))
        layout = self._layout(name, captured, places)
        drawn: list[DrawnImage] = []
        first = name not in self.previews and len(self.previews) < 6
        if folder is not None or first:
            maps = layer_maps(tensor, layout)
            if first:
                self.previews[name] = preview_of(maps, self.asked.drawing.cmap)
            drawn = (
                _drawn(maps, seen, name, picture, self.asked.drawing, folder, piece, taken, self.model.stamp)
                if folder
                else []
            )
        return LayerFeature(
            name, path, place.cls if place else "", call, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."),
            layout.describe(), layout.how != "operators", stats_of(tensor, layout.channels),
            tuple(drawn),
        )  # fmt: skip

    def _layout(self, name: str, captured: Captured, places: Mapping[tuple[str, int, int], LayerOutput]) -> Layout:
        from modelprobe.vision.features.outputs import guessed_layout

        tensor, (path, call, index) = captured[name], captured.origins[name]
        place = places.get((self.first[path], call, index))
        shape = tuple(tensor.shape)
        return place.layout if place and place.shape == shape else guessed_layout(shape, ())

    def _embed(
        self,
        captured: Captured,
        places: Mapping[tuple[str, int, int], LayerOutput],
        image: str,
        folder: Folder,
        piece: str,
    ) -> str:
        vectors = {name: pooled_over_places(captured[name], self._layout(name, captured, places)) for name in captured}
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **vectors)
        folder.write(f"{piece}/{EMBEDDED}", out.getvalue())
        self.embeddings.add(image, piece, vectors)
        return EMBEDDED

    def _save(self, captured: Mapping[str, Tensor], folder: Folder, piece: str) -> str:
        from modelprobe.vision.features.tensor_files import serialised

        name = f"features.{self.asked.save}"
        folder.write(f"{piece}/{name}", serialised(captured, str(self.asked.save)))
        return name

    def _result(self, done: list[PictureFeatures], folder: Folder | None) -> FeaturesResult:
        from modelprobe.vision.features.features import FeaturesResult, as_figures, notes_on, over_all
        from modelprobe.vision.features.gallery import write_gallery
        from modelprobe.vision.images import gathered

        layers = over_all(done)
        first = next(picture for picture in done if not picture.error)
        notes = (
            *self.model.notes,
            *gathered(self.told),
            *self._input_notes(done),
            *notes_on(layers, done),
            *(self.embeddings.write(folder) if self.asked.embed and folder is not None else ()),
            *self.model.join_frames(folder.path if folder is not None else None),
        )
        directory = folder.path if folder is not None else Path()
        weights, seeing = self.model.weights.plain(), self.model.preprocessing.describe()
        result = FeaturesResult(
            self.model.name, weights, seeing, tuple(done), layers,
            str(folder.path) if folder is not None else "", notes, self.model.env, self._facts(done, folder),
            as_figures(first, directory, self.previews),
        )  # fmt: skip
        if folder is not None:
            write_gallery(folder, result)
        return result

    def _input_notes(self, done: Sequence[PictureFeatures]) -> Iterator[Note]:
        if not self.asked.images and self.asked.model.video is None:
            yield Note("No image was given: seeded noise was looked at (--image).", Level.ASSUMED)
        again = sum(picture.resumed for picture in done)
        if again:
            yield Note(f"{again:,} of {len(done):,} images were complete before and not done again.", Level.INFO)
        if self.asked.directory is None:
            yield Note("-o DIR writes the images: grids of channels, heat maps, overlays, a gallery page.", Level.INFO)

    def _facts(self, done: Sequence[PictureFeatures], folder: Folder | None) -> tuple[Fact, ...]:
        good = [picture for picture in done if not picture.error]
        facts = [
            self.model.weights.fact(),
            Fact("Images", good[0].image if len(done) == 1 else f"{len(good):,} of {len(done):,}"),
        ]
        if folder is not None:
            facts.append(Fact("Written", str(folder.path), detail="index.html shows all of it"))
        return (*facts, Fact("Input", self.model.preprocessing.describe()))


def _drawn(
    maps: Any,
    seen: Any,
    name: str,
    picture: str,
    drawing: Drawing,
    folder: Folder,
    piece: str,
    taken: set[str],
    stamp: str = "",
) -> list[DrawnImage]:
    """Write the images of one output."""
    from modelprobe.vision.features.features import DrawnImage
    from modelprobe.vision.pictures.canvas import png

    stem = file_name(name, taken)
    found = []
    for one in pictures_of(maps, seen, name, picture, drawing):
        folder.write(f"{piece}/{stem}.{one.kind}.png", png(one.image, stamp))
        found.append(DrawnImage(one.kind, f"{piece}/{stem}.{one.kind}.png", one.caption))
    return found


def _about(file: Path) -> dict[str, Any]:
    """What tells that an image is still the one that was looked at before."""
    try:
        state = (file if file.exists() else file.parent).stat()  # a frame is told by its video
    except OSError as error:
        raise BadInput(f"there is no image {file}", "check the path") from error
    return {"image": str(file), "bytes": state.st_size, "modified": state.st_mtime_ns}


def list_layers(request: TargetRequest) -> LayerList:
    """The layers that run, with what they put out; recorded on meta, without weights."""
    from modelprobe.model.build import load_model, record
    from modelprobe.vision.features.features import LayerList, guess_notes
    from modelprobe.vision.features.outputs import LayerOutputs

    loaded = load_model(replace(request, weights=None))
    outputs = LayerOutputs()
    trace = record(loaded, follow=outputs)
    facts = (Fact("Input", ", ".join(str(item) for item in trace.env["inputs"])),)
    found = outputs.layouts()
    guessed = dict.fromkeys(output.path for output in found if output.layout.how != "operators")
    notes = (*trace.notes, *guess_notes(list(guessed)))
    return LayerList(loaded.target.name, found, notes, trace.env, facts)
