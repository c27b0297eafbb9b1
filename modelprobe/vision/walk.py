"""One way over images for all commands: opened, looked at in batches, drawn, recorded, gone on with after a stop."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor, cat

from modelprobe.console import progress, stdout_kept
from modelprobe.errors import BadInput, ModelRaised, ProbeError
from modelprobe.files.directory import Folder, file_name
from modelprobe.report.blocks import Level, Note, plain
from modelprobe.tracing.tensors import shapes
from modelprobe.vision.arrays import bands_picture
from modelprobe.vision.image_model import ImageModel
from modelprobe.vision.images import Photo, UnreadableError, gathered
from modelprobe.vision.pictures.canvas import png

T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """One image on its way: as it is called, as the model sees it, and what `forward` is called with."""

    image: str
    photo: Photo
    seen: Image.Image
    arguments: tuple[Any, ...]


class ImagePlace:
    """Where the files of one image go: a directory of its own below that of the command, or nowhere."""

    def __init__(self, folder: Folder | None, piece: str, stamp: str) -> None:
        self.folder, self.piece, self._stamp = folder, piece, stamp
        self.files: list[str] = []

    def write(self, name: str, data: bytes) -> str:
        """Write a file; its path below the command's directory."""
        assert self.folder is not None
        self.folder.write(f"{self.piece}/{name}", data)
        self.files.append(name)
        return f"{self.piece}/{name}"

    def draw(self, name: str, picture: Image.Image) -> str:
        """Write a picture, with what is to stand on every one of them."""
        return self.write(f"{name}.png", png(picture, self._stamp))

    def arrays(self, name: str, arrays: Mapping[str, Any]) -> str:
        """Write arrays as .npz."""
        out = io.BytesIO()
        np.savez_compressed(out, allow_pickle=False, **arrays)
        return self.write(f"{name}.npz", out.getvalue())


class Command(Generic[T]):
    """What one command does with images. `T` is what is kept of one image: plain values, or several `entry`."""

    entry: Any = None

    def look(self, batch: Sequence[Shown]) -> Sequence[Any]:
        """One forward pass for images of one size; what was found for each. Raises BadInput or ModelRaised."""
        raise NotImplementedError

    def keep(self, shown: Shown, found: Any, place: ImagePlace) -> T:
        """What is kept of an image, drawn into its place where that has a folder."""
        raise NotImplementedError

    def known(self, values: Any, place: ImagePlace) -> T:
        """The same from the JSON of a run before. Raises KeyError, TypeError, ValueError or OSError for another's."""
        kept: Any = tuple(revived(self.entry, value) for value in values)
        return kept  # type: ignore[no-any-return]

    def facts(self) -> dict[str, Any]:
        """Plain values that are the same for all images, known after the first; `notes` among them."""
        return {}


@dataclass(frozen=True)
class Looked(Generic[T]):
    """What was kept of one image; or the `error` that kept it from being looked at. `folder` holds its files."""

    image: str
    kept: T | None = None
    error: str = ""
    folder: str = ""
    resumed: bool = False


@dataclass
class Walked(Generic[T]):
    """What a walk brought: an entry for each image, what is the same for all, and what is to be said."""

    images: list[Looked[T]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    @property
    def kept(self) -> list[T]:
        """What was kept of the images that were looked at."""
        return [one.kept for one in self.images if one.kept is not None]


@stdout_kept()
def walk_images(
    model: ImageModel, files: Sequence[Path], command: Command[T], folder: Folder | None = None
) -> Walked[T]:
    """Every image in turn, `model.batch` of one size at once; seeded noise where there are no `files`.

    An image that cannot be read is reported, and the others go on; so do they after an error of the model's on a later
    image. What stands complete in `folder` is not done again. Raises BadInput where no image can be looked at, and what
    the first one raises.
    """
    walker = _Walker(model, command, folder, len(files) < 2)
    names: set[str] = set()
    with _undone(folder), progress("looking at images", len(files)) as advance:
        if not files:
            photo = noise(model)
            walker.add(photo, str(photo.path), "noise", {})
        for file in files:
            walker.file(file, file_name(file.stem, names))
            advance()
        walker.flush()
    return walker.walked()


@contextmanager
def _undone(folder: Folder | None) -> Iterator[None]:
    """What stops the body leaves nothing half-written; complete pieces stay, to be gone on from."""
    try:
        yield
    except BaseException:
        if folder is not None:
            folder.undo()
        raise


@dataclass
class _Waiting:
    """An image of a batch that is not full yet."""

    number: int
    shown: Shown
    piece: str
    about: Mapping[str, Any]


class _Walker(Generic[T]):
    def __init__(self, model: ImageModel, command: Command[T], folder: Folder | None, alone: bool) -> None:
        self._model, self._command, self._folder = model, command, folder
        self._size = model.batch
        self._done: dict[int, Looked[T]] = {}
        self._told: list[tuple[Path, Note]] = []
        self._facts: dict[str, Any] = {}
        self._waiting: list[_Waiting] = []
        self._notes: list[Note] = []
        self._count, self._alone = 0, alone

    @property
    def _some(self) -> bool:
        """Whether any image was looked at."""
        return any(one.kept is not None for one in self._done.values())

    def file(self, file: Path, piece: str) -> None:
        """One image; what keeps it from being read is an error where it is the only one."""
        try:
            about = _about(file)
            if self._restored(file, piece, about):
                return
            with _unreadable():
                photo = self._model.open(file)
            self.add(photo, str(file), piece, about)
        except UnreadableError as error:
            if self._alone:
                raise
            self._put(Looked(str(file), error=error.message))

    def add(self, photo: Photo, image: str, piece: str, about: Mapping[str, Any]) -> None:
        """An image that was opened."""
        preprocessing = self._model.preprocessing
        with _unreadable():
            seen = preprocessing.seen(photo)
            shown = Shown(image, photo, seen, self._model.arguments(photo, seen))
        if self._waiting and shapes(self._waiting[0].shown.arguments) != shapes(shown.arguments):
            self.flush()
        self._waiting.append(_Waiting(self._count, shown, piece, about))
        self._count += 1
        if len(self._waiting) >= self._size or not all(isinstance(value, Tensor) for value in shown.arguments):
            self.flush()

    def _put(self, looked: Looked[T]) -> None:
        self._done[self._count] = looked
        self._count += 1

    def _restored(self, file: Path, piece: str, about: Mapping[str, Any]) -> bool:
        """Whether the image was complete before; then it is taken as it was."""
        record = self._folder.record_of(piece, about) if self._folder is not None and self._folder.resumed else None
        if record is None:
            return False
        try:
            kept = self._command.known(record["values"], ImagePlace(self._folder, piece, ""))
            notes = [Note(text, Level(level)) for text, level in record["notes"]]
            facts = dict(record["facts"])
        except (KeyError, TypeError, ValueError, OSError):
            return False  # written by another version: done anew
        self._learn(facts)
        self._told += [(file, note) for note in notes]
        self._put(Looked(str(file), kept, folder=piece, resumed=True))
        return True

    def flush(self) -> None:
        """Look at the images that wait."""
        waiting, self._waiting = self._waiting, []
        try:
            found = self._command.look([one.shown for one in waiting]) if waiting else ()
        except (ModelRaised, BadInput) as error:
            if len(waiting) > 1:
                self._one_by_one(waiting, error)
            elif not self._alone and (isinstance(error, UnreadableError) or self._some):
                self._done[waiting[0].number] = Looked(waiting[0].shown.image, error=error.message)
            else:
                raise
            return
        for one, item in zip(waiting, found, strict=True):
            try:
                self._finish(one, item)
            except UnreadableError as error:
                if self._alone:
                    raise
                if self._folder is not None:
                    self._folder.undo()
                self._done[one.number] = Looked(one.shown.image, error=error.message)

    def _one_by_one(self, waiting: Sequence[_Waiting], error: ProbeError) -> None:
        self._size = 1
        for one in waiting:
            self._waiting = [one]
            self.flush()
        text = f"Images were looked at one by one: {error.message.rstrip('.')}."
        self._notes.append(Note(text, Level.INFO))

    def _finish(self, one: _Waiting, found: Any) -> None:
        place = ImagePlace(self._folder, one.piece, self._model.stamp)
        notes = self._model.preprocessing.notes_on(one.shown.photo)
        if self._folder is not None:
            place.write("seen.png", png(one.shown.seen.convert("RGB")))
        kept = self._command.keep(one.shown, found, place)
        self._learn(self._command.facts())
        if self._folder is not None:
            values = plain(kept)
            said = {"notes": [(note.text, note.level.value) for note in notes], "facts": self._facts}
            self._folder.complete(one.piece, one.about, place.files, values, **said)
        self._told += [(one.shown.photo.path, note) for note in notes]
        folder = one.piece if self._folder is not None else ""
        self._done[one.number] = Looked(one.shown.image, kept, folder=folder)

    def _learn(self, facts: Mapping[str, Any]) -> None:
        """Lists grow, what is empty is filled."""
        for key, value in facts.items():
            known = self._facts.get(key)
            if isinstance(known, list):
                known += [item for item in plain(value) if item not in known]
            elif not known:
                self._facts[key] = plain(value)

    def walked(self) -> Walked[T]:
        images = [self._done[number] for number in range(self._count)]
        failed = [one for one in images if one.error]
        again = sum(one.resumed for one in images)
        if len(failed) == len(images):
            raise BadInput(
                f"none of {len(images)} images could be looked at; the first: {failed[0].error}",
                "give images that Pillow can read",
            )
        found = [Note(note["text"], Level(note["level"])) for note in self._facts.get("notes", ())]
        notes = [*gathered(self._told), *self._notes, *found]
        if failed:
            many = "1 image was" if len(failed) == 1 else f"{len(failed):,} images were"
            more = "; …" if len(failed) > 1 else "."
            notes.append(Note(f"{many} left out: {failed[0].error}{more}", Level.WARNING))
        if again:
            notes.append(
                Note(f"{again:,} of {len(images):,} images were complete before and not done again.", Level.INFO)
            )
        return Walked(images, self._facts, tuple(notes))


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise UnreadableError(error.message, error.hint) from error


def joined(batch: Sequence[Shown]) -> tuple[Any, ...]:
    """What `forward` is called with for all of them."""
    if len(batch) == 1:
        return batch[0].arguments
    return tuple(cat(values) for values in zip(*(one.arguments for one in batch), strict=True))


def revived(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of plain values from its JSON, whose lists are tuples. Raises KeyError or TypeError."""
    return kind(**{item.name: _as_tuple(values[item.name]) for item in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def noise(model: ImageModel) -> Photo:
    """Seeded uniform noise of the size that the model is used to."""
    preprocessing = model.preprocessing
    height, width = preprocessing.crop or preprocessing.resize or (224, 224)
    random = np.random.default_rng(model.loaded.request.seed)
    if preprocessing.channels not in (1, 3) or preprocessing.space == 1:
        size = (width,) if preprocessing.space == 1 else (height, width)
        bands = random.random((preprocessing.channels, *size), dtype=np.float32)
        return Photo(Path("seeded noise"), bands_picture(bands), (), bands)
    values = np.rint(random.random((height, width)) * 255).astype(np.uint8)
    return Photo(Path("seeded noise"), Image.fromarray(values).convert("RGB"))


def _about(file: Path) -> dict[str, Any]:
    """What tells that an image is still the one that was looked at before."""
    try:
        state = (file if file.exists() else file.parent).stat()  # a frame is told by its video
    except OSError:
        return {"image": str(file)}  # no file: opening it tells, or a function gave it
    return {"image": str(file), "bytes": state.st_size, "modified": state.st_mtime_ns}
