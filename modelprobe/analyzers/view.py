"""What looks at pictures, and how it tells what it is doing: shared by `cam` and `attention`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.model.image import Photo
from modelprobe.model.labels import Labels
from modelprobe.model.transform import Preprocessing
from modelprobe.report import Fact, Note

Progress = Callable[[str], AbstractContextManager[Any]]
"""Says, while a body runs, what is being done."""


@dataclass(frozen=True)
class View:
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
            raise BadInput(
                f"{self.name} takes {self.preprocessing.kind}, not one picture", f"{what} is for one picture"
            )
        return arguments[0]


def stems(files: Sequence[Path]) -> list[str]:
    """A file name for each picture: its own, with a number where two are the same."""
    seen: dict[str, int] = {}
    names = []
    for file in files:
        number = seen[file.stem] = seen.get(file.stem, 0) + 1
        names.append(file.stem if number == 1 else f"{file.stem}-{number}")
    return names
