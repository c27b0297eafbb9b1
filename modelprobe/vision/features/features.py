"""The result of `features`: shapes, statistics and drawings of layer outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.report.blocks import Block, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, shape, text
from modelprobe.vision.features.outputs import LayerOutput
from modelprobe.vision.features.stats import Stats
from modelprobe.vision.gallery import Panel, Section, Shot

MOST_PREVIEWS = 6
WIDE = ("grid", "frames")
"""Kinds of images that the others stand beside, one below the other."""

MOST_SHOWN = 40
"""Images listed one by one in a report; JSON has all."""


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image that was written: its kind, its path relative to the output directory, and what it shows."""

    kind: str
    path: str
    caption: str


@dataclass(frozen=True, slots=True)
class LayerFeature:
    """One tensor that a layer put out for one image. `layout` says how it was looked at."""

    name: str
    path: str
    cls: str
    call: int
    shape: tuple[int, ...]
    dtype: str
    layout: str
    guessed: bool
    stats: Stats
    drawn: tuple[DrawnImage, ...] = ()

    def panel(self) -> Panel:
        """What the page shows of it."""
        stats = self.stats
        numbers = (("mean", stats.mean), ("std", stats.std), ("min", stats.min), ("max", stats.max))
        said = [
            f"{self.cls} {shape(self.shape)} {self.dtype}, {self.layout}",
            *(f"{label} {text(value, Unit.NUMBER)}" for label, value in numbers),
            f"{text(stats.zero_share, Unit.SHARE)} zeros",
            f"{stats.dead:,} of {stats.channels:,} channels dead",
        ]
        if stats.nan or stats.inf:
            said.append(f"{stats.nan:,} NaN, {stats.inf:,} infinite")
        shots = [Shot(one.path, f"{self.name}: {one.caption}", one.kind in WIDE) for one in self.drawn]
        return Panel(self.name, " · ".join(said), shots)


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """One image and what the layers put out for it; or the `error` that kept it from being looked at."""

    image: str
    layers: tuple[LayerFeature, ...] = ()
    error: str = ""
    folder: str = ""
    resumed: bool = False

    def section(self) -> Section:
        """What the page shows of it."""
        return Section(self.image, self.folder, [layer.panel() for layer in self.layers], self.error)


@dataclass(frozen=True)
class FeaturesResult(Result):
    """The answer of `features`. `layers` are over all images together; `images` one by one."""

    model: str
    weights: Mapping[str, Any]
    preprocessing: str
    pictures: tuple[PictureFeatures, ...]
    layers: tuple[LayerFeature, ...]
    directory: str
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    facts: tuple[Fact, ...] = field(repr=False, default=())
    previews: tuple[Figure, ...] = field(repr=False, default=())

    def report(self) -> Report:
        """Facts, the layers over all images, small previews, the images one by one where there are several."""
        blocks: list[Block] = [Facts(self.facts), _layer_table(self.layers, len(self.looked_at) > 1)]
        if len(self.pictures) > 1:
            blocks.append(_picture_table(self.pictures))
        blocks += self.previews
        title = f"{self.model}: layer activations"
        if len(self.layers) == 1:
            title = f"{self.model}: what {self.layers[0].name} holds"
        return Report(title, "modelprobe.features/1", (*blocks, *self.notes), self.to_dict(), self.env)

    @property
    def looked_at(self) -> tuple[PictureFeatures, ...]:
        """The images that could be read."""
        return tuple(picture for picture in self.pictures if not picture.error)


def _layer_table(layers: Sequence[LayerFeature], several: bool) -> Table:
    wrong = any(layer.stats.nan or layer.stats.inf for layer in layers)
    columns = [
        Column("layer", "Layer"),
        Column("class", "Class", priority=6),
        Column("shape", "Output", Unit.SHAPE, priority=1),
        Column("layout", "Layout", priority=4),
        Column("dtype", "Dtype", priority=7),
        Column("mean", "Mean", Unit.NUMBER),
        Column("std", "Std", Unit.NUMBER, priority=2),
        Column("min", "Min", Unit.NUMBER, priority=3),
        Column("max", "Max", Unit.NUMBER, priority=3),
        Column("zeros", "Zeros", Unit.SHARE),
        Column("dead", "Dead channels" if not several else "Dead in all", Unit.TEXT, priority=5),
    ]
    if wrong:
        columns.append(Column("not_finite", "NaN/Inf", Unit.COUNT))
    rows = []
    for layer in layers:
        stats = layer.stats
        dead = f"{stats.dead:,} of {stats.channels:,}" if stats.channels else ""
        figures = (stats.mean, stats.std, stats.min, stats.max, stats.zero_share, dead)
        cells = (layer.name, layer.cls, layer.shape, layer.layout, layer.dtype, *figures)
        rows.append(Row((*cells, *([stats.nan + stats.inf] if wrong else []))))
    return Table(tuple(columns), tuple(rows), key="layers")


def _picture_table(pictures: Sequence[PictureFeatures]) -> Table:
    shown = sorted(pictures, key=lambda picture: not picture.error)[:MOST_SHOWN]
    columns = (Column("image", "Image"), Column("state", "", wrap=True), Column("folder", "Directory", priority=1))
    rows = tuple(Row((one.image, _state(one), one.folder), quiet=one.resumed) for one in shown)
    more = len(pictures) - len(shown)
    title = f"Images ({more} more, in -f json)" if more else "Images"
    return Table(columns, rows, title, key="pictures")


def _state(picture: PictureFeatures) -> str:
    if picture.error:
        return picture.error
    return "complete before" if picture.resumed else "done"


def over_all(pictures: Sequence[PictureFeatures]) -> tuple[LayerFeature, ...]:
    """Each layer over all images: its figures merged, its shape where that is the same everywhere."""
    merged: dict[str, LayerFeature] = {}
    for picture in pictures:
        for layer in picture.layers:
            known = merged.get(layer.name)
            merged[layer.name] = _joined_statistics(known, layer) if known is not None else layer
    return tuple(merged.values())


def _joined_statistics(known: LayerFeature, more: LayerFeature) -> LayerFeature:
    from dataclasses import replace

    same = len(known.shape) == len(more.shape)
    shape = tuple(a if a == b else 0 for a, b in zip(known.shape, more.shape, strict=True)) if same else ()
    return replace(known, stats=known.stats.with_more(more.stats), shape=shape, drawn=())


def guess_notes(guessed: Sequence[str]) -> list[Note]:
    """That the layouts of these layers were not followed; none for none."""
    if not guessed:
        return []
    which = ", ".join(guessed[:4]) + (f" and {len(guessed) - 4} more" if len(guessed) > 4 else "")
    text = f"The rows and columns of {which} could not be followed through the forward pass: read from sizes and order."
    return [Note(text, Level.ASSUMED)]


def notes_on(layers: Sequence[LayerFeature]) -> tuple[Note, ...]:
    """What a reader must know about these figures."""
    notes: list[Note] = []
    notes += guess_notes([layer.name for layer in layers if layer.guessed])
    wrong = [layer.name for layer in layers if layer.stats.nan or layer.stats.inf]
    if wrong:
        text = f"Not all values are finite: {', '.join(wrong[:6])}{' and more' if len(wrong) > 6 else ''}. "
        notes.append(Note(f"{text}Statistics are of the others; images show NaN and infinities in magenta.",
                          Level.WARNING))  # fmt: skip
    if any(0 in layer.shape for layer in layers):
        notes.append(Note("0 in a shape marks a size that is not the same for all images.", Level.INFO))
    return tuple(notes)


@dataclass(frozen=True)
class LayerList(Result):
    """The answer of `features --list`: what can be asked for."""

    model: str
    places: tuple[LayerOutput, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    facts: tuple[Fact, ...] = field(repr=False, default=())

    def report(self) -> Report:
        """One row for each module that ran."""
        columns = (
            Column("layer", "Layer"),
            Column("class", "Class", priority=2),
            Column("shape", "Output", Unit.SHAPE),
            Column("layout", "Layout", priority=1),
            Column("calls", "Calls", Unit.COUNT, priority=3),
        )
        calls: dict[str, list[LayerOutput]] = {}
        for place in self.places:
            calls.setdefault(place.path, []).append(place)
        rows = tuple(_names_of(path, found) for path, found in calls.items())
        data = {"model": self.model, "layers": [self._plain(path, found) for path, found in calls.items()]}
        table = Table(columns, rows, key="layers")
        title = f"{self.model}: layers for --layers"
        return Report(title, "modelprobe.features.list/1", (Facts(self.facts), table, *self.notes), data, self.env)

    @staticmethod
    def _plain(path: str, found: Sequence[LayerOutput]) -> dict[str, Any]:
        outputs = [place for place in found if place.call == 1]
        return {
            "name": path,
            "class": found[0].cls,
            "calls": max(place.call for place in found),
            "outputs": [{"shape": list(place.shape), "layout": place.layout.describe()} for place in outputs],
        }


def _names_of(path: str, found: Sequence[LayerOutput]) -> Row:
    first = [place for place in found if place.call == 1]
    layout = ", ".join(dict.fromkeys(place.layout.describe() for place in first))
    return Row((path, found[0].cls, tuple(place.shape for place in first), layout, max(place.call for place in found)))


def of_json(values: Sequence[Mapping[str, Any]]) -> tuple[LayerFeature, ...]:
    """The layers of an image as `plain` wrote them. Raises KeyError and TypeError for what is none."""
    found = []
    for value in values:
        stats = Stats(**{**value["stats"], "dead_channels": tuple(value["stats"]["dead_channels"])})
        drawn = tuple(DrawnImage(**one) for one in value["drawn"])
        found.append(LayerFeature(**{**value, "shape": tuple(value["shape"]), "stats": stats, "drawn": drawn}))
    return tuple(found)


def as_figures(picture: PictureFeatures, directory: Path, previews: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The images that a report shows: of the first image, a few layers."""
    found = []
    for layer in picture.layers[:MOST_PREVIEWS]:
        best = next(
            (one for kind in ("overlay", "mean", "strip", "matrix") for one in layer.drawn if one.kind == kind), None
        )
        pixels = previews.get(layer.name, ())
        if best is not None:
            found.append(Figure(directory / best.path, f"{layer.name}: {best.caption}", pixels))
        elif pixels:
            found.append(Figure(None, layer.name, pixels))
    return tuple(found)
