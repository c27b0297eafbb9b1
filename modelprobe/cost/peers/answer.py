"""What came of asking another tool: a figure, or why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The figure in the tool's own unit, or None and the `problem` in one line.

    `place` is the device that the model was on, `seconds` the life of the child process.
    """

    figure: int | float | None
    problem: str = ""
    place: str = ""
    seconds: float = 0.0


def checked(figure: Any) -> int | float:
    """A tool's figure as a plain number. Raises ValueError for what is none."""
    number = figure.item() if hasattr(figure, "item") else figure
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise ValueError(f"its answer is no figure: {str(figure)[:60]!r}")
    return int(number) if float(number).is_integer() else number
