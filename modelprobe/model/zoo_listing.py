"""The list of models that can be named: torchvision and timm, by wildcard, without building or importing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.model.zoo import names as zoo
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A name and the libraries that have it."""

    name: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelsResult(Result):
    """The names that a pattern finds."""

    pattern: str
    torchvision: int
    timm: int
    models: tuple[ZooModel, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """How many there are, then the names."""
        columns = (Column("name", "Model"), Column("origins", "Origin"))
        rows = tuple(Row((model.name, ", ".join(model.origins))) for model in self.models)
        facts = Facts(
            (
                Fact("torchvision", self.torchvision, Unit.COUNT),
                Fact("timm", self.timm, Unit.COUNT),
            )
        )
        both = sum(len(model.origins) > 1 for model in self.models)
        are = "1 of these names is" if both == 1 else f"{both} of these names are"
        note = Note(f"{are} in both: a plain name takes torchvision's, timm:NAME the other.", Level.INFO)
        blocks = (facts, Table(columns, rows, key="models"), *((note,) if both else ()))
        title = f"Models matching {self.pattern}" if self.pattern else "Models of torchvision and timm"
        return Report(title, "modelprobe.models/1", blocks, self.to_dict(), self.env)


def list_models(pattern: str = "", env: Mapping[str, Any] | None = None) -> ModelsResult:
    """The names in both zoos that match `pattern` (wildcards, else a part of the name).

    Raises BadInput when there is none, with the nearest names.
    """
    found = zoo.find(pattern)
    if not found:
        close = zoo.nearest(pattern.strip("*?"))
        hint = f"nearest: {', '.join(close)}" if close else "`modelprobe models` lists all names"
        raise BadInput(f"no model matches {pattern!r}", hint)
    models = tuple(ZooModel(entry.name, tuple(entry.origins)) for entry in found)
    return ModelsResult(
        pattern,
        sum(zoo.TORCHVISION in model.origins for model in models),
        sum(zoo.TIMM in model.origins for model in models),
        models,
        env or {},
    )
