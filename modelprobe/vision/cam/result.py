"""The result of `cam`: maps drawn, stored and listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelprobe.report.blocks import Block, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.vision.cam.methods import LAYERED, ClassMap
from modelprobe.vision.gallery import Panel, Shot

METHOD_NAMES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "layercam": "Layer-CAM",
    "hirescam": "HiRes-CAM",
    "eigencam": "Eigen-CAM",
    "scorecam": "Score-CAM",
    "guided-gradcam": "Guided Grad-CAM",
    "integrated-gradients": "Integrated gradients",
    "saliency": "Saliency",
    "occlusion": "Occlusion",
}
"""The methods as the field writes them."""


@dataclass(frozen=True, slots=True)
class CamEntry:
    """One map. `peak` is its largest value's (row, column) in the image that the model saw, of `size` pixels; (index,)

    of a signal, (frame, row, column) of a video.

    `heat` and `overlay` are file names in the output directory; `array` the name in the file `arrays`. They are empty
    when nothing was written. `layer` and `grid` are those of the map before it was enlarged.
    """

    image: str
    method: str
    target: int
    label: str
    score: float
    probability: float | None
    peak: tuple[int, ...]
    size: tuple[int, ...]
    layer: str
    grid: tuple[int, ...]
    blank: bool
    against: bool = False
    deletion: float | None = None
    """The area under the class's probability while the map's highest pixels are removed first; see `judge`."""
    insertion: float | None = None
    heat: str = ""
    overlay: str = ""
    arrays: str = ""
    array: str = ""
    compare: str = ""
    """The image's maps side by side, where there are several; and in `judge` the curves of all of them."""
    judge: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CamResult(Result):
    """Every map that was asked for, and what it was made with."""

    model: str
    weights: Mapping[str, Any]
    preprocessing: str
    scores: str
    layer: str
    reason: str
    entries: tuple[CamEntry, ...]
    directory: str = ""
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    head: Fact = field(repr=False, default=Fact("Weights", None))

    def report(self) -> Report:
        """The layer and why, the scores, then the images."""
        facts = [
            self.head,
            Fact("Images", self.preprocessing),
            Fact("Scores", self.scores),
            *([Fact("Layer", self.layer, detail=self.reason)] if self.layer else []),
            *([Fact("Written", self.directory, detail="index.html shows all of it")] if self.directory else []),
        ]
        blocks: tuple[Block, ...] = (Facts(tuple(facts)), _maps_table(self.entries), *self._figures(), *self.notes)
        return Report(f"{self.model}: class activation maps", "modelprobe.cam/1", blocks, self.to_dict(), self.env)

    def _figures(self) -> list[Figure]:
        """Those of the first image."""
        place = Path(self.directory)
        entries = [entry for entry in self.entries if entry.overlay and entry.image == self.entries[0].image]
        figures = [Figure(place / entries[0].compare, f"{entries[0].image}: side by side")] if len(entries) > 1 else []
        return figures + [Figure(place / entry.overlay, f"{entry.image}: {map_title(entry)}") for entry in entries]


def map_title(entry: CamEntry) -> str:
    """The method, and what the map is made for."""
    return f"{METHOD_NAMES[entry.method]} for {entry.label}"


def map_panels(entries: Sequence[CamEntry]) -> list[Panel]:
    """What the page shows of one image: all maps side by side, then each alone."""
    first = entries[0]
    together = [(first.compare, "side by side"), (first.judge, "deletion and insertion")]
    shots = [Shot(path, said) for path, said in together if path]
    panels = [Panel("All maps", "", shots)] if shots else []
    for entry in entries:
        pair = [Shot(entry.overlay, f"{map_title(entry)}, over the image"), Shot(entry.heat, map_title(entry))]
        if len(entry.size) == 3:
            pair.append(Shot(f"{entry.overlay.removesuffix('.png')}.gif", f"{map_title(entry)}, frame by frame"))
        panels.append(Panel(map_title(entry), map_subtitle(entry), pair))
    return panels


def entry_of(image: str, found: ClassMap, label: str) -> CamEntry:
    """The plain values of a map."""
    return CamEntry(
        image=image,
        method=found.method,
        target=found.target,
        label=label,
        score=found.score,
        against=found.against,
        probability=found.probability,
        peak=tuple(int(at) for at in np.unravel_index(int(found.map.argmax()), found.map.shape)),
        size=tuple(found.map.shape),
        layer=found.layer,
        grid=tuple(found.raw.shape),
        blank=not bool(found.map.any()),
        remarks=found.remarks,
    )


def _maps_table(entries: Sequence[CamEntry]) -> Table:
    judged = any(entry.deletion is not None for entry in entries)
    columns = (
        Column("image", "Image"),
        Column("label", "Class"),
        Column("target", "Index", Unit.COUNT, priority=3),
        Column("score", "Score", Unit.RATIO, priority=1),
        Column("probability", "Probability", Unit.SHARE, bar=True),
        Column("method", "Method"),
        *((Column("deletion", "Deletion", Unit.RATIO), Column("insertion", "Insertion", Unit.RATIO)) if judged else ()),
        Column("peak", "Peak at", priority=2),
        Column("grid", "Map", Unit.SHAPE, priority=4),
    )
    rows = tuple(
        Row(
            (
                entry.image,
                entry.label,
                entry.target,
                entry.score,
                entry.probability,
                METHOD_NAMES[entry.method],
                *((entry.deletion, entry.insertion) if judged else ()),
                "nowhere" if entry.blank else where(entry.peak, entry.size),
                entry.grid,
            ),
            quiet=entry.blank,
        )
        for entry in entries
    )
    return Table(columns, rows, key="maps")


def where(peak: Sequence[int], size: Sequence[int]) -> str:
    """A place (row, column) of an image in words, by thirds: `upper left`; of a video with the frame before it."""
    if len(peak) == 1:
        return f"{peak[0]:,} of {size[0]:,}"
    thirds = [min(2, 3 * at // span) for at, span in zip(peak[-2:], size[-2:], strict=True)]
    vertical, horizontal = ("upper", "middle", "lower")[thirds[0]], ("left", "center", "right")[thirds[1]]
    words = "center" if thirds == [1, 1] else f"{vertical} {horizontal}"
    return words if len(peak) == 2 else f"frame {peak[0]}, {words}"


def remark_notes(entries: Sequence[CamEntry]) -> list[Note]:
    """What must be said of maps: empty ones, and what their methods remarked; one note for each kind."""
    found: dict[tuple[str, str], list[str]] = {}
    blank: dict[str, list[str]] = {}
    for entry in entries:
        for remark in entry.remarks:
            found.setdefault((entry.method, remark.partition(":")[0]), []).append(f"{entry.image}: {remark}")
        if entry.blank:
            blank.setdefault(entry.method, []).append(f"{entry.image} for {entry.label}")
    notes = []
    for (method, _), said in found.items():
        more = f" (and of {len(said) - 1:,} more images)" if len(said) > 1 else ""
        notes.append(Note(f"{METHOD_NAMES[method]} of {said[0]}{more}.", Level.ASSUMED))
    for method, images in blank.items():
        why = "no place speaks for it at that layer" if method in LAYERED else "the score does not change with it"
        more = f", and {len(images) - 1:,} more maps," if len(images) > 1 else ""
        verb = "are" if len(images) > 1 else "is"
        text = f"{METHOD_NAMES[method]} of {images[0]}{more} {verb} zero everywhere: {why}."
        notes.append(Note(text, Level.WARNING))
    return notes


def map_key(entry: CamEntry) -> str:
    """The method, and the class as `--class` takes it."""
    return f"{entry.method}.{'-' * entry.against}{entry.target}"


def map_subtitle(entry: CamEntry) -> str:
    size = "x".join(map(str, entry.grid))
    at = f", {size} at {entry.layer}" if entry.layer and entry.method != "guided-gradcam" else ""
    return f"{entry.image}: score {entry.score:.3g}{share_text(entry, 'probability ')}{at}"


def share_text(entry: CamEntry, name: str = "") -> str:
    return "" if entry.probability is None else f", {name}{entry.probability:.1%}"
