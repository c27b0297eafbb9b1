"""The table of report formats, each with a module that writes it.

To add a format, follow the recipe in `modelprobe guide architecture`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol, cast

from modelprobe.report.blocks import Report


@dataclass(frozen=True)
class Style:
    """What the place that a report goes to can show. Only the terminal format looks at it."""

    width: int = 80
    colour: bool = False
    unicode: bool = True


class _FormatModule(Protocol):
    def render(self, report: Report, style: Style) -> str: ...


@dataclass(frozen=True)
class Renderer:
    """One format: its name, the file suffixes that ask for it, and the module that writes it."""

    name: str
    suffixes: tuple[str, ...]
    module: str  # imported at first use, so that JSON need not wait for rich

    def render(self, report: Report, style: Style) -> str:
        """The whole report as text that ends in one newline."""
        return cast(_FormatModule, importlib.import_module(self.module)).render(report, style)


RENDERERS: dict[str, Renderer] = {}


def register(name: str, suffixes: tuple[str, ...], module: str) -> None:
    """Add a format. A name or a suffix that is taken raises ValueError."""
    taken = {suffix for renderer in RENDERERS.values() for suffix in renderer.suffixes}
    if name in RENDERERS or taken.intersection(suffixes):
        raise ValueError(f"the format {name!r} or one of its suffixes {suffixes} is registered already")
    RENDERERS[name] = Renderer(name, suffixes, module)


register("terminal", (".txt",), "modelprobe.report.formats.terminal")
register("json", (".json",), "modelprobe.report.formats.json")
register("jsonl", (".jsonl", ".ndjson"), "modelprobe.report.formats.jsonl")
register("csv", (".csv",), "modelprobe.report.formats.csv")
register("markdown", (".md", ".markdown"), "modelprobe.report.formats.markdown")
register("html", (".html", ".htm"), "modelprobe.report.formats.html")
