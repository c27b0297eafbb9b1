"""A model that looks at images: with weights, its own preprocessing and its class labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from modelprobe._version import __version__
from modelprobe.console import stdout_kept
from modelprobe.errors import BadInput
from modelprobe.files.directory import Folder, open_folder
from modelprobe.model.build import LoadedModel, TargetRequest, load_model
from modelprobe.model.inputs.declared import IMAGE_PAIR, IMAGES, VIDEO
from modelprobe.model.inputs.first_layer import without_wrappers
from modelprobe.model.weights.chosen import RANDOM, ModelWeights
from modelprobe.report.blocks import Fact, Level, Note
from modelprobe.tracing.module_tree import class_name, refuse_without_values
from modelprobe.tracing.restore import RandomDraws
from modelprobe.vision.given_inputs import GivenInputs, given_inputs
from modelprobe.vision.images import Photo, find_images, open_image
from modelprobe.vision.labels import Labels, labels_of, read_labels
from modelprobe.vision.preprocessing.lookup import Preprocessing, preprocessing
from modelprobe.vision.preprocessing.overrides import PreprocessingOverrides
from modelprobe.vision.preprocessing.transform import NEVER
from modelprobe.vision.video import Clip, VideoRequest, check_video, join_frames, read_clip

TAKEN = {IMAGES: "a list of images", VIDEO: "the frames of a video", IMAGE_PAIR: "two images"}
"""What else a network may be made for, in words."""


@dataclass(frozen=True)
class ImageModelRequest:
    """What the command line said about the model (`request.weights` is set) and how it sees."""

    request: TargetRequest
    overrides: PreprocessingOverrides = field(default_factory=PreprocessingOverrides)
    labels: Path | None = None
    device: str = "cpu"
    batch: int = 1
    video: VideoRequest | None = None
    prepared: bool = False
    """Whether `request.inputs_from` gives the images too, not only what the model takes beside them."""

    def folder(self, command: str, said: Mapping[str, Any], path: Path | None, force: bool) -> Folder | None:
        """The output directory of `command`, asked for with `said` beside this; none without a `path`. Raises BadInput.

        Files that it is about (a model's code, weights, a mask) are told by size and time too.
        """
        if path is None:
            return None
        every = {**vars(self.request), **vars(self.overrides), **said, "video": self.video, "labels": self.labels,
                 "device": self.device}  # fmt: skip
        question = {key: [str(value), _file_state(value)] for key, value in every.items()}
        return open_folder(path, {"command": command, "version": __version__, **question}, force)

    def find_files(self, images: Sequence[str]) -> list[Path]:
        """The images that these paths, directories and wildcards name. Raises BadInput, also for none at all."""
        return find_images(images) if images or (self.video is None and not self.prepared) else []


@dataclass(frozen=True)
class ImageModel:
    """A loaded model in eval mode on its `device`, how it takes images, and what its classes are called.

    `batch` images are looked at together.
    """

    loaded: LoadedModel
    preprocessing: Preprocessing
    labels: Labels
    device: str = "cpu"
    batch: int = 1
    clip: Clip | None = None
    given: GivenInputs | None = None
    """Where the user's function gives the images."""
    draws: RandomDraws = field(default_factory=RandomDraws, compare=False)
    """What its forwards draw at random, as soon as one has run."""

    @property
    def name(self) -> str:
        """The target's name."""
        return self.loaded.target.name

    @property
    def model(self) -> nn.Module:
        """The module."""
        return self.loaded.model

    @property
    def weights(self) -> ModelWeights:
        """Which weights it has."""
        assert self.loaded.weights is not None
        return self.loaded.weights

    @property
    def notes(self) -> tuple[Note, ...]:
        """What has to be said about model, weights and preprocessing."""
        said = [self.clip.note] if self.clip is not None else []
        said += [Note(self.draws.text, Level.WARNING)] if self.draws.text else []
        return (*self.loaded.notes, *self.preprocessing.notes, *said)

    @property
    def stamp(self) -> str:
        """What stands on every image made with untrained weights; empty for others."""
        return "RANDOM WEIGHTS" if self.weights.kind == RANDOM else ""

    @property
    def own_files(self) -> list[Path]:
        """The paths of the frames of the video and of the images that a function gave, which `open` takes."""
        return [file for source in (self.clip, self.given) if source is not None for file in source.files]

    @property
    def env(self) -> Mapping[str, Any]:
        """What it takes to reproduce an answer."""
        return self.loaded.env

    def arguments(self, photo: Photo, seen: Image.Image | None = None) -> tuple[Any, ...]:
        """What `forward` is called with for an image: where the model is, of its type.

        `seen`, what it sees of the image, spares the work of making it again.
        """
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), None)

        def placed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(self.device, dtype if value.is_floating_point() else None)
            return [placed(item) for item in value]

        return tuple(map(placed, self.preprocessing.arguments(photo, seen)))

    def open(self, file: Path) -> Photo:
        """The image in a file, or a frame of the video, for this model. Raises BadInput."""
        preprocessing = self.preprocessing
        own = self.clip.photo_at(file) if self.clip is not None else None
        if self.given is not None:
            own = own or self.given.photo(file, preprocessing)
        return own or open_image(file, preprocessing.values, preprocessing.channels, preprocessing.space)

    def join_frames(self, folder: Folder | None, images: Iterable[Any]) -> list[Note]:
        """The pictures of the video's frames in `folder` as strips and animations, and a note on them."""
        if self.clip is None or folder is None:
            return []
        named = set(map(str, self.clip.files))
        pieces = [folder.path / one.folder for one in images if one.image in named and one.folder]
        return join_frames(self.clip.path.stem, pieces, folder.path)

    def closing_notes(self, folder: Folder | None, images: Iterable[Any]) -> list[Note]:
        """What is said last of maps: where their pictures are."""
        if folder is None:
            return [Note("Nothing was drawn: -o DIR writes images and arrays.", Level.INFO)]
        return self.join_frames(folder, images)

    def described(self, folder: Folder | None, notes: Iterable[Note]) -> dict[str, Any]:
        """What the result of every command says of the model, with these notes after its own."""
        return {
            "model": self.name,
            "weights": self.weights.plain(),
            "head": self.weights.fact(),
            "preprocessing": self.preprocessing.describe(),
            "directory": str(folder.path) if folder is not None else "",
            "notes": (*self.notes, *notes),
            "env": self.env,
        }

    def written(self, folder: Folder | None) -> list[Fact]:
        """Where the files are."""
        return [] if folder is None else [Fact("Written", str(folder.path), detail="index.html shows all of it")]

    def image(self, arguments: Sequence[Any], command: str) -> Tensor:
        """The images [B, C, H, W] (signals, videos) among the arguments. Raises BadInput for what is no such."""
        if len(arguments) != 1 or not isinstance(arguments[0], Tensor) or not 3 <= arguments[0].dim() <= 5:
            taken = TAKEN.get(self.preprocessing.kind, self.preprocessing.kind)
            raise BadInput(
                f"{self.name} takes {taken}, not one image",
                f"{command} is for networks that take one; `features` shows the layers of this one",
            )
        image: Tensor = arguments[0]
        return image


def _file_state(value: Any) -> str:
    """Size and time of the file that `value` names (a path, `model.py:Net`); empty for what is none."""
    with suppress(OSError, ValueError):
        for name in (str(value), str(value).rpartition(":")[0]):
            if isinstance(value, (str, Path)) and Path(name).is_file():
                state = Path(name).stat()
                return f"{state.st_size} bytes, {state.st_mtime_ns}"
    return ""


def _unwrapped(loaded: LoadedModel) -> LoadedModel:
    """With the module that `torch.compile` was given: what compiled code does inside, no hook and no mode sees."""
    inner = without_wrappers(loaded.model)
    if inner is loaded.model:
        return loaded
    text = f"The model is wrapped in {class_name(loaded.model)}: the module in it was run."
    return replace(loaded, model=inner, notes=(*loaded.notes, Note(text, Level.INFO)))


@stdout_kept()
def load_image_model(asked: ImageModelRequest) -> ImageModel:
    """The target with weights, its preprocessing and its labels. Raises ProbeError for what stands in the way."""
    if asked.labels is not None:
        read_labels(asked.labels)  # a mistake in it is told before weights are fetched
    if asked.video is not None:
        check_video(asked.video)
    if asked.device == "meta":
        raise BadInput("--device meta computes nothing", "give cpu, or leave --device out")
    if asked.device != "cpu":
        from modelprobe.model.devices import checked_device

        checked_device(asked.device)
    given = given_inputs(asked.request.inputs_from) if asked.request.inputs_from is not None else None
    loaded = _unwrapped(load_model(asked.request))
    refuse_without_values(loaded.model)
    declared = given.declared if given is not None else None
    seeing = preprocessing(loaded.target, loaded.model, loaded.entry, asked.overrides, declared)
    if given is not None:
        given.complete(loaded.model)
        loaded = replace(loaded, notes=(*loaded.notes, *given.notes))
        if asked.prepared:
            seeing = replace(seeing, fit=NEVER, resize=None, crop=None, source="prepared by --inputs-from", notes=())
    labels = labels_of(loaded.target, loaded.model, loaded.entry, asked.labels)
    if asked.device != "cpu":
        loaded.model.to(asked.device)
    clip = None
    if asked.video is not None:
        clip = read_clip(asked.video, seeing.frames if seeing.kind == VIDEO else None)
        if seeing.kind == VIDEO:  # the note that one image stands for all frames is not true then
            seeing = replace(
                seeing, notes=tuple(note for note in seeing.notes if "the image was given" not in note.text)
            )
    draws = RandomDraws(asked.request.seed)
    draws.watch(loaded.model)
    return ImageModel(loaded, seeing, labels, asked.device, asked.batch, clip, given if asked.prepared else None, draws)
