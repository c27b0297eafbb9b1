"""What looks at pictures, and how it tells what it is doing: shared by `cam` and `attention`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import IMAGE_PAIR, IMAGES, VIDEO
from modelprobe.report.blocks import Fact, Level, Note
from modelprobe.vision.images import Photo, gathered, open_image
from modelprobe.vision.labels import Labels
from modelprobe.vision.preprocessing.transform import Preprocessing

TAKEN = {IMAGES: "a list of pictures", VIDEO: "the frames of a video", IMAGE_PAIR: "two pictures"}
"""What else a network may be made for, in words."""

Progress = Callable[[str], AbstractContextManager[Any]]
"""Says, while a body runs, what is being done."""


@dataclass(frozen=True)
class ImageViewer:
    """What looks: a model in eval mode, how it sees pictures, what its classes are called, and what to say of it."""

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    labels: Labels
    weights: Fact
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Which weights they are, for programs."""
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)

    def image(self, photo: Photo, what: str) -> Tensor:
        """The picture [1, C, H, W] as the model takes it. Raises BadInput for a model that takes something else."""
        arguments = self.preprocessing.arguments(photo)
        if len(arguments) != 1 or not isinstance(arguments[0], Tensor) or arguments[0].dim() != 4:
            taken = TAKEN.get(self.preprocessing.kind, self.preprocessing.kind)
            raise BadInput(
                f"{self.name} takes {taken}, not one picture",
                f"{what} is for networks that look at one; `features` shows the layers of this one",
            )
        return arguments[0]


def each_photo(
    view: ImageViewer, files: Sequence[Path], progress: Progress, notes: list[Note]
) -> Iterator[tuple[str, Photo]]:
    """Every picture that can be read, with a file name for it. `notes` get what was converted, and what was left out.

    Of several pictures a bad one is told and does not stop the rest. Raises BadInput when there is no other.
    """
    told: list[tuple[Path, Note]] = []
    problem: BadInput | None = None
    good = 0
    for number, (file, stem) in enumerate(zip(files, stems(files), strict=True)):
        with progress(f"{file.name}, {number + 1} of {len(files)}"):
            try:
                photo = open_image(file)
            except BadInput as error:
                problem = problem or error
                notes.append(Note(f"Left out: {error.message}.", Level.WARNING))
                continue
            good += 1
            told += [(file, note) for note in view.preprocessing.notes_on(photo)]
            yield stem, photo
    if problem is not None and not good:
        raise problem
    notes.extend(gathered(told))


def stems(files: Sequence[Path]) -> list[str]:
    """A file name for each picture: its own, with a number where two are the same."""
    seen: dict[str, int] = {}
    names = []
    for file in files:
        number = seen[file.stem] = seen.get(file.stem, 0) + 1
        names.append(file.stem if number == 1 else f"{file.stem}-{number}")
    return names
