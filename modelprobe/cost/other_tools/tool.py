"""The records of other counting tools: what is known of one, and what came of asking it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Ask = Callable[["nn.Module", Sequence[Any], Mapping[str, Any]], Any]
"""A model in eval mode and the arguments of its forward -> the tool's own figure for that one forward pass."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that counts. `ask` has to be a function at the top of a module: the child imports it by name.

    `unit` is what the tool calls its figure, `per_mac` how much of it one multiply-accumulate is. `extra` is the extra
    of ours that installs it, empty where we depend on it. `convention` names the rules that predict its figure, empty
    where there are none. `on_meta` says that its figure is the same without weights and arithmetic.
    """

    name: str
    package: str
    unit: str
    per_mac: int
    ask: Ask
    convention: str = ""
    extra: str = ""
    on_meta: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing of it is imported."""
        try:
            return importlib.util.find_spec(self.package) is not None
        except (ImportError, ValueError):
            return False

    @property
    def version(self) -> str:
        """The installed version, empty where it is not known."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    @property
    def remedy(self) -> str:
        """How to install it."""
        return f"pip install {f'modelprobe[{self.extra}]' if self.extra else self.package}"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The figure in the tool's own unit, or None and the `problem` in one line.

    `place` is the device that the model was on, `seconds` the life of the child process.
    """

    figure: int | float | None
    problem: str = ""
    place: str = ""
    seconds: float = 0.0


def plain_number(figure: Any) -> int | float:
    """A tool's figure as a plain number. Raises ValueError for what is none."""
    number = figure.item() if hasattr(figure, "item") else figure
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise ValueError(f"its answer is no figure: {str(figure)[:60]!r}")
    return int(number) if float(number).is_integer() else number
