"""The result of `attention`: maps drawn, stored and listed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from modelprobe.report.blocks import Block, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.vision.attention.maps import Attention, Query
from modelprobe.vision.cam.result import where
from modelprobe.vision.gallery import Panel, Shot
from modelprobe.vision.pictures.canvas import side_by_side
from modelprobe.vision.pictures.colour import ColourLimits
from modelprobe.vision.pictures.grids import channel_grid
from modelprobe.vision.pictures.heat import SIDE, with_bar
from modelprobe.vision.pictures.overlay import overlay
from modelprobe.vision.video import frame_numbers
from modelprobe.vision.walk import ImagePlace

MEAN_HEAD, ROLLOUT = "mean", "rollout"
UNIFORM = 0.9
"""A map that is spread over more than this share of its places is near uniform."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """One attention that ran. `queries` and `keys` are grids (rows, columns); (0, 0) where class tokens alone ask."""

    path: str
    index: int
    heads: int
    windows: int
    queries: tuple[int, int]
    keys: tuple[int, int]


@dataclass(frozen=True, slots=True)
class AttentionEntry:
    """One map. `head` is a number, `mean` or `rollout`; `peak` is (row, column) on the `grid` of keys.

    `elsewhere` is the share that goes to tokens of no place (class tokens, padding); `places` tells over how many the
    rest is spread: the exponential of its entropy, from 1 to the number of places. `figure` and `arrays` name files.
    """

    image: str
    block: str
    head: str
    query: str
    grid: tuple[int, ...]
    peak: tuple[int, ...]
    most: float
    elsewhere: float
    places: float
    figure: str = ""
    arrays: str = ""
    array: str = ""

    @property
    def uniform(self) -> bool:
        """Whether it is spread so evenly over all places that its peak says little."""
        return self.places >= UNIFORM * math.prod(self.grid)


@dataclass(frozen=True, slots=True)
class AttentionResult(Result):
    """Every map that was asked for, and the blocks that there are."""

    model: str
    weights: Mapping[str, Any]
    preprocessing: str
    blocks: tuple[AttentionBlock, ...]
    entries: tuple[AttentionEntry, ...]
    listed: bool = False
    directory: str = ""
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    head: Fact = field(repr=False, default=Fact("Weights", None))

    def report(self) -> Report:
        """The blocks when they were asked for, else the maps and their images."""
        heads = sum(block.heads for block in self.blocks)
        facts = [
            self.head,
            Fact("Images", self.preprocessing),
            Fact(
                "Attention",
                "1 block" if len(self.blocks) == 1 else f"{len(self.blocks)} blocks",
                detail=f"{heads} heads",
            ),
            *([Fact("Written", self.directory, detail="index.html shows all of it")] if self.directory else []),
        ]
        table = _block_table(self.blocks) if self.listed else _entry_table(self.entries)
        blocks: tuple[Block, ...] = (Facts(tuple(facts)), table, *self._figures(), *self.notes)
        title = f"{self.model}: attention maps"
        return Report(title, "modelprobe.attention/1", blocks, self.to_dict(), self.env)

    def _figures(self) -> list[Figure]:
        """Those of the first image."""
        shown = [entry for entry in self.entries if entry.figure and entry.image == self.entries[0].image]
        figures = {entry.figure: f"{entry.image}: {_figure_text(entry)}" for entry in reversed(shown)}
        return [Figure(Path(self.directory) / name, figures[name]) for name in dict.fromkeys(e.figure for e in shown)]


def _figure_text(entry: AttentionEntry) -> str:
    heads = "each head" if entry.head.isdecimal() else _attention_facts(entry.head)
    return f"{ROLLOUT if entry.head == ROLLOUT else f'{entry.block}, {heads}'}, of {entry.query}"


def attention_panels(entries: Sequence[AttentionEntry]) -> list[Panel]:
    """What the page shows of one image: the pictures of each block side by side."""
    blocks: dict[str, dict[str, Shot]] = {}
    for entry in entries:
        blocks.setdefault(entry.block, {}).setdefault(entry.figure, Shot(entry.figure, _figure_text(entry)))
    return [Panel(block, f"of {entries[0].query}", list(shots.values())) for block, shots in blocks.items()]


def uniform_notes(entries: Sequence[AttentionEntry]) -> list[Note]:
    """Which maps are spread over all places."""
    even = [entry for entry in entries if entry.uniform]
    if not even:
        return []
    name = f"{even[0].block}, {_attention_facts(even[0].head)}, of {even[0].image}"
    text = (
        f"{len(even):,} of {len(entries):,} maps are near uniform, such as {name}: spread over {UNIFORM:.0%} of their"
    )
    return [Note(f"{text} places or more, their peaks say little.", Level.INFO)]


def block_of(item: Attention) -> AttentionBlock:
    """The plain values of an attention."""
    queries, keys = item.queries, item.keys
    return AttentionBlock(
        item.path, item.index, item.heads, item.windows, (queries.height, queries.width), (keys.height, keys.width)
    )


@dataclass(frozen=True)
class AttentionMaps:
    """What is shown of one block for one query: [h, w] for each head by name, and its share elsewhere.

    `asking` is the grid of queries, (rows, columns), which may be finer than that of keys.
    """

    block: str
    query: Query
    asking: tuple[int, int]
    heads: tuple[str, ...]
    maps: tuple[Tensor, ...]
    elsewhere: tuple[float, ...]
    frames: int = 1
    """Of a video, whose maps are [frames x h, w]."""


def entries_of(image: str, found: AttentionMaps) -> tuple[AttentionEntry, ...]:
    """The plain values of the maps of a block."""
    entries = []
    for head, values, elsewhere in zip(found.heads, found.maps, found.elsewhere, strict=True):
        height, width = values.shape
        grid = (height, width) if found.frames == 1 else (found.frames, height // found.frames, width)
        peak = tuple(int(at) for at in np.unravel_index(int(values.argmax()), grid))
        shares = values.flatten() / values.sum().clamp(min=1e-30)
        entropy = float(-(shares * shares.clamp(min=1e-30).log()).sum())
        entries.append(
            AttentionEntry(
                image,
                found.block,
                head,
                found.query.said,
                grid,
                peak,
                float(values.max()),
                elsewhere,
                float(np.exp(entropy)),
            )
        )
    return tuple(entries)


def _entry_table(entries: Sequence[AttentionEntry]) -> Table:
    columns = (
        Column("image", "Image", priority=3),
        Column("block", "Block"),
        Column("head", "Head"),
        Column("peak", "Peak at"),
        Column("most", "Peak", Unit.SHARE, priority=1),
        Column("places", "Spread over (places)", Unit.RATIO, priority=2),
        Column("elsewhere", "On class token", Unit.SHARE, priority=1),
        Column("grid", "Grid", Unit.SHAPE, priority=2),
    )
    rows = tuple(
        Row(
            (
                e.image,
                e.block,
                e.head,
                "near uniform" if e.uniform else where(e.peak, e.grid),
                e.most,
                e.places,
                e.elsewhere,
                e.grid,
            ),
            quiet=e.uniform,
        )
        for e in entries
    )
    return Table(columns, rows, key="maps")


def _block_table(blocks: Sequence[AttentionBlock]) -> Table:
    columns = (
        Column("index", "Index", Unit.COUNT),
        Column("path", "Block"),
        Column("heads", "Heads", Unit.COUNT),
        Column("windows", "Windows", Unit.COUNT, priority=1),
        Column("queries", "Queries", Unit.SHAPE, priority=2),
        Column("keys", "Keys", Unit.SHAPE),
    )
    rows = tuple(
        Row((b.index, b.path, b.heads, b.windows, b.queries if any(b.queries) else "class tokens", b.keys))
        for b in blocks
    )
    return Table(columns, rows, key="blocks")


def _attention_facts(name: str) -> str:
    return "mean of its heads" if name == MEAN_HEAD else f"head {name}"


MAX_FRAMES = 9
"""Of a video, over which a map is drawn."""


def _over_frames(frames: Sequence[Image.Image], stack: NDArray[Any], cmap: str) -> Image.Image:
    """Some frames of a video under the map of each, side by side."""
    limits, many, cells = ColourLimits(0.0, float(stack.max())), len(stack), []
    for at in frame_numbers(many, min(many, MAX_FRAMES), "segments"):
        under = frames[at * len(frames) // many]
        cells.append((f"frame {at} of {many}", overlay(under, stack[at], cmap=cmap, limits=limits)))
    return side_by_side(cells, columns=3)


def _stacked(found: AttentionMaps, values: Tensor) -> NDArray[Any]:
    """The map of each frame, [frames, h, w]."""
    stack: NDArray[Any] = values.numpy().reshape(found.frames, -1, values.shape[-1])
    return stack


# Files


def draw_attention(
    seen: Sequence[Image.Image], found: AttentionMaps, entries: Sequence[AttentionEntry], place: ImagePlace, cmap: str
) -> tuple[AttentionEntry, ...]:
    """Write an image of the single heads, and one of the mean or the rollout over the image."""
    name = "".join(character if character.isalnum() or character in "._-" else "_" for character in found.block)
    image, grid = entries[0].image, "x".join(map(str, entries[0].grid))
    told = f"{image}: what {found.query.said} attends to, {grid} places"
    singles = [index for index, head in enumerate(found.heads) if head.isdecimal()]
    heads = ""
    if singles:
        maps = [_stacked(found, found.maps[index]).sum(0) for index in singles]
        about = f"{told}, summed over all frames" if found.frames > 1 else told
        limits = ColourLimits(0.0, max(float(values.max()) for values in maps))
        captions = [f"head {found.heads[index]}{', near uniform' * entries[index].uniform}" for index in singles]
        sheet = channel_grid(maps, captions, found.block, about, cmap=cmap, limits=limits)
        heads = place.draw(f"{name}.heads", sheet)
    drawn = []
    for entry, values in zip(entries, found.maps, strict=True):
        figure, rolled = heads, entry.head == ROLLOUT
        if not entry.head.isdecimal():
            title = "Attention rollout" if rolled else f"{found.block}, {_attention_facts(entry.head)}"
            laid = over_photo(seen, values, found, cmap)
            limits = ColourLimits(0.0, float(values.max()))
            picture = with_bar(laid, title, told, cmap=cmap, limits=limits)
            figure = place.draw(ROLLOUT if rolled else f"{name}.{entry.head}", picture)
        array = ROLLOUT if rolled else f"{found.block}.{entry.head}"
        drawn.append(dataclasses.replace(entry, figure=figure, array=array))
    return tuple(drawn)


def over_photo(frames: Sequence[Image.Image], values: Tensor, found: AttentionMaps, cmap: str) -> Image.Image:
    """The map over the image, its patches kept square; the patch that asks has a frame. Of a video some frames."""
    if found.frames > 1:
        return _over_frames(frames, _stacked(found, values), cmap)
    seen = frames[0]
    scale = max(1, -(-SIDE // max(seen.size)))
    photo = seen.resize((seen.width * scale, seen.height * scale), Image.Resampling.NEAREST)
    height, width = values.shape
    # every value at the resolution of the image, so that the overlay has nothing to smooth
    rows = np.arange(photo.height) * height // photo.height
    columns = np.arange(photo.width) * width // photo.width
    fine = values.numpy()[rows][:, columns]
    laid = overlay(photo, fine, cmap=cmap, limits=ColourLimits(0.0, float(values.max())))
    if found.query.kind == "patch":
        across, down = photo.width / found.asking[1], photo.height / found.asking[0]
        left, top = found.query.column * across, found.query.row * down
        box = (round(left), round(top), round(left + across) - 1, round(top + down) - 1)
        ImageDraw.Draw(laid).rectangle(box, outline=(255, 0, 255), width=3)
    return laid
