"""One way over images for all commands: which cannot be read, what was converted; results written with their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelprobe.console import stdout_kept
from modelprobe.errors import BadInput
from modelprobe.files.directory import staged_directory
from modelprobe.report.blocks import Block, Facts, Level, Note, Report
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.vision.arrays import bands_picture
from modelprobe.vision.image_model import ImageModel
from modelprobe.vision.images import Photo, gathered

Progress = Callable[[str], AbstractContextManager[Any]]
"""Says, while a body runs, what is being done."""


def each_photo(
    model: ImageModel, files: Sequence[Path], progress: Progress, notes: list[Note]
) -> Iterator[tuple[str, Photo]]:
    """Every image that can be read, with a file name for it. `notes` get what was converted, and what was left out.

    Of several images a bad one is told and does not stop the rest. Raises BadInput when there is no other.
    """
    told: list[tuple[Path, Note]] = []
    problem: BadInput | None = None
    good = 0
    for number, (file, stem) in enumerate(zip(files, stems(files), strict=True)):
        with progress(f"{file.name}, {number + 1} of {len(files)}"):
            try:
                photo = model.open(file)
            except BadInput as error:
                problem = problem or error
                notes.append(Note(f"Not read: {error.message}.", Level.WARNING))
                continue
            good += 1
            told += [(file, note) for note in model.preprocessing.notes_on(photo)]
            yield stem, photo
    if problem is not None and not good:
        raise problem
    notes.extend(gathered(told))


Batched = TypeVar("Batched", bound="tuple[Any, ...]")


def in_batches(items: Iterable[Batched], size: int) -> Iterator[list[Batched]]:
    """Neighbours whose last value, a tensor with a batch of 1, has the same shape, as many as `size` at once."""
    batch: list[Batched] = []
    for item in items:
        if batch and (len(batch) == size or batch[-1][-1].shape != item[-1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def stems(files: Sequence[Path]) -> list[str]:
    """A file name for each image: its own, with a number where two are the same."""
    seen: dict[str, int] = {}
    names = []
    for file in files:
        number = seen[file.stem] = seen.get(file.stem, 0) + 1
        names.append(file.stem if number == 1 else f"{file.stem}-{number}")
    return names


def noise(model: ImageModel) -> Photo:
    """Seeded uniform noise of the size that the model is used to."""
    import numpy as np

    from modelprobe.vision.pictures.colour import coloured

    height, width = model.preprocessing.crop or model.preprocessing.resize or (224, 224)
    channels = model.preprocessing.channels
    random = np.random.default_rng(model.loaded.request.seed)
    if channels not in (1, 3):
        bands = random.random((channels, height, width), dtype=np.float32)
        return Photo(Path("seeded noise"), bands_picture(bands), (), bands)
    values = random.random((height, width))
    return Photo(Path("seeded noise"), coloured(values, "gray"))


W = TypeVar("W", bound="WrittenResult")


class WrittenResult(Protocol):
    """A result whose files stand in a directory."""

    def report(self) -> Report:
        """The answer in blocks."""

    def at(self: W, directory: Path) -> W:
        """The same with its files in another directory."""


@stdout_kept()
def write_result(path: Path | None, force: bool, make: Callable[[Path | None], W]) -> W:
    """What `make` answers when it has written to a directory, with `index.html` and `report.json` beside its files.

    Without a `path` there is no directory, and nothing is written.
    """
    if path is None:
        return make(None)
    style = Style(80, colour=False, unicode=True)
    with staged_directory(path, force) as temporary:
        made = make(temporary)
        # The page embeds the images from where they are now; what it says is where they will be, for whoever gets it.
        report = _named_directory(made.at(temporary).report(), str(temporary), path.name or str(path))
        page = RENDERERS["html"].render(report, style)
        (temporary / "index.html").write_text(page, encoding="utf-8")
        result = made.at(path)
        text = RENDERERS["json"].render(result.report(), style)
        (temporary / "report.json").write_text(text, encoding="utf-8")
    return result


def _named_directory(report: Report, now: str, then: str) -> Report:
    def named(block: Block) -> Block:
        if not isinstance(block, Facts):
            return block
        items = tuple(replace(fact, value=then) if fact.value == now else fact for fact in block.items)
        return replace(block, items=items)

    return replace(report, blocks=tuple(map(named, report.blocks)))
