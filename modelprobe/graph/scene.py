"""Boxes and lines of a graph at their places on the paper. `page.js` places what is opened there in the same way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from modelprobe.graph.graph import WHOLE_MODEL, GraphNode, ModelGraph
from modelprobe.graph.levels import GraphLevel, levels_of
from modelprobe.report.units import scaled

HEIGHT, LETTER, PAD, HEAD, ROW_GAP, GAP, UNIT = 40.0, 6.6, 16.0, 24.0, 34.0, 22.0, 150.0
DOT = 6.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PlacedBox:
    """A box at its place; `opened` ones hold others."""

    node: GraphNode
    x: float
    y: float
    width: float
    height: float
    opened: bool


@dataclass(frozen=True, slots=True)
class PlacedLine:
    """A line through points, with the text beside its middle."""

    points: tuple[Point, ...]
    text: str
    repeats: bool


@dataclass
class GraphScene:
    """Everything that is drawn, outermost boxes first, and the size of the paper."""

    width: float = 0.0
    height: float = 0.0
    boxes: list[PlacedBox] = field(default_factory=list)
    lines: list[PlacedLine] = field(default_factory=list)


def title_of(node: GraphNode) -> str:
    """`layer1.0 BasicBlock x3`."""
    copies = f" x{node.copies}" if node.copies > 1 else ""
    cls = f" {node.cls}" if node.kind == "module" and node.cls != node.name else ""
    return f"{node.name}{cls}{copies}"


def detail_of(node: GraphNode) -> str:
    """The second line of a box: shapes that leave it, and MACs."""
    if node.kind == "failed":
        return "given " + ", ".join(node.inputs)
    shown = ", ".join(node.outputs[:2]) + (", …" if len(node.outputs) > 2 else "")
    return f"{shown}  {scaled(node.macs)} MACs" if node.macs else shown


def scene_of(graph: ModelGraph, opened: Collection[int], across: bool = False) -> GraphScene:
    """The graph with the boxes `opened`, the root among them; `across`: from left to right, else from the top down."""
    placer = _Placer(graph, levels_of(graph), opened, across)
    width, height = placer.size(WHOLE_MODEL)
    scene = GraphScene(width, height)
    placer.draw(WHOLE_MODEL, 0.0, 0.0, scene)
    return scene


class _Placer:
    def __init__(self, graph: ModelGraph, levels: dict[int, GraphLevel], opened: Collection[int], across: bool) -> None:
        self.nodes, self.levels, self.across = {node.id: node for node in graph.nodes}, levels, across
        self.opened = {number for number in opened if number in levels}
        self.sizes: dict[int, Point] = {}
        self.centres: dict[int, dict[int, Point]] = {}

    def size(self, number: int) -> Point:
        """Width and height of an item; of an opened box after its inside is placed."""
        if number < 0:
            return (DOT, DOT)
        if number in self.sizes:
            return self.sizes[number]
        node = self.nodes[number]
        longest = max(len(title_of(node)), len(detail_of(node)) * 0.85)
        size = (max(70.0, longest * LETTER + 18), HEIGHT)
        if number in self.opened:
            width, height = self._place(number)
            size = (max(size[0], width + 2 * PAD), height + HEAD + PAD)
        self.sizes[number] = size
        return size

    def _place(self, number: int) -> Point:
        """Centres of everything in a box, from its inner corner, and the size that this takes."""
        level = self.levels[number]
        centres: dict[int, Point] = {}
        along = 0.0
        for row in level.rows:
            sizes = [self._turned(self.size(item)) for item, _ in row]
            wanted = [place * UNIT for _, place in row]
            at: list[float] = []
            for index, (wide, _) in enumerate(sizes):
                least = at[-1] + (sizes[index - 1][0] + wide) / 2 + GAP if at else wanted[index]
                at.append(max(wanted[index], least))
            shift = sum(want - got for want, got in zip(wanted, at, strict=True)) / len(row)
            tall = max(high for _, high in sizes)
            for (item, _), place in zip(row, at, strict=True):
                centres[item] = (place + shift, along + tall / 2)
            along += tall + ROW_GAP
        low = min(centres[item][0] - self._turned(self.size(item))[0] / 2 for item in centres)
        high = max(centres[item][0] + self._turned(self.size(item))[0] / 2 for item in centres)
        self.centres[number] = {item: self._turned((x - low, y)) for item, (x, y) in centres.items()}
        return self._turned((high - low, along - ROW_GAP))

    def _turned(self, pair: Point) -> Point:
        return (pair[1], pair[0]) if self.across else pair

    def draw(self, number: int, left: float, top: float, scene: GraphScene) -> None:
        width, height = self.size(number)
        opened = number in self.opened
        scene.boxes.append(PlacedBox(self.nodes[number], left, top, width, height, opened))
        if not opened:
            return
        centres = self.centres[number]
        inner = width - 2 * PAD - (max(x + self.size(i)[0] / 2 for i, (x, _) in centres.items()))
        x0, y0 = left + PAD + max(0.0, inner) / 2, top + HEAD
        for item, (x, y) in centres.items():
            if item >= 0:
                wide, high = self.size(item)
                self.draw(item, x0 + x - wide / 2, y0 + y - high / 2, scene)
        for line in self.levels[number].lines:
            points = self._points(line.items, centres, x0, y0)
            more = f" +{len(line.shapes) - 1}" if len(line.shapes) > 1 else ""
            scene.lines.append(PlacedLine(points, line.shapes[0] + more, line.repeats))

    def _points(self, items: tuple[int, ...], centres: dict[int, Point], x0: float, y0: float) -> tuple[Point, ...]:
        """From the far side of the first item to the near side of the last."""
        found: list[Point] = []
        for at, item in enumerate(items):
            x, y = centres[item]
            side = 0 if 0 < at < len(items) - 1 else (1 if at == 0 else -1)
            wide, high = self.size(item)
            found.append(
                (x0 + x + (side * wide / 2 if self.across else 0), y0 + y + (0 if self.across else side * high / 2))
            )
        return tuple(found)
