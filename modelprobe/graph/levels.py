"""The layout of each level of a graph: the rows in which its boxes stand, and how the lines between them run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelprobe.graph.graph import GraphEdge, GraphNode, ModelGraph

ENTRY, EXIT = -1, -2
"""Places where values come into an opened box and leave it; bends of lines have the numbers below."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a level: the items that it runs through (boxes at its ends, bends between) and the shapes on it."""

    items: tuple[int, ...]
    shapes: tuple[str, ...]
    repeats: bool


@dataclass(frozen=True, slots=True)
class GraphLevel:
    """What is inside one box: rows of (item, place across in units of a box) from the first to the last, and lines."""

    rows: tuple[tuple[tuple[int, float], ...], ...]
    lines: tuple[Line, ...]


def levels_of(graph: ModelGraph) -> dict[int, GraphLevel]:
    """The layout of the inside of every box that has one."""
    between = _lifted(graph)
    nodes = {node.id: node for node in graph.nodes}
    return {
        number: _level_layout(inside, between.get(number, {}), nodes) for number, inside in graph.children().items()
    }


Links = dict[tuple[int, int], dict[str, None]]


def _lifted(graph: ModelGraph) -> dict[int, Links]:
    """For each box, what its own children pass on to each other, take from outside and give to it."""
    parent = {node.id: node.parent for node in graph.nodes}

    def chain(number: int) -> list[int]:
        path = [number]
        while parent[path[-1]] >= 0:
            path.append(parent[path[-1]])
        return path[::-1]

    found: dict[int, Links] = {}

    def add(level: int, pair: tuple[int, int], edge: GraphEdge) -> None:
        found.setdefault(level, {}).setdefault(pair, {})[edge.shape] = None

    for edge in graph.edges:
        one, other = chain(edge.source), chain(edge.target)
        common = 0
        while common < min(len(one), len(other)) and one[common] == other[common]:
            common += 1
        if common < len(one) and common < len(other):
            add(one[common - 1], (one[common], other[common]), edge)
        for at in range(common, len(one) - 1):
            add(one[at], (one[at + 1], EXIT), edge)
        for at in range(common, len(other) - 1):
            add(other[at], (ENTRY, other[at + 1]), edge)
    return found


def _level_layout(inside: Sequence[int], links: Links, nodes: dict[int, GraphNode]) -> GraphLevel:
    forward = [pair for pair in links if not _leads_back(pair, nodes)]
    order = {item: at for at, item in enumerate(dict.fromkeys(item for pair in forward for item in pair))}
    rows, paths = _sugiyama_rows(tuple((order[a], order[b]) for a, b in forward), len(order))
    names = list(order)

    def item(number: int) -> int:
        return names[number] if number < len(names) else EXIT - 1 - (number - len(names))

    placed = [[(item(number), across) for number, across in row] for row in rows]
    alone = [child for child in inside if child not in order]
    for at in range(0, len(alone), 8):  # what nothing feeds and nothing uses
        placed.append([(child, float(place)) for place, child in enumerate(alone[at : at + 8])])
    lines = [
        Line(tuple(item(number) for number in path), tuple(links[pair]), False)
        for pair, path in zip(forward, paths, strict=True)
    ]
    lines += [Line(pair, tuple(shapes), True) for pair, shapes in links.items() if _leads_back(pair, nodes)]
    return GraphLevel(tuple(tuple(sorted(row, key=lambda one: one[1])) for row in placed), tuple(lines))


def _leads_back(pair: tuple[int, int], nodes: dict[int, GraphNode]) -> bool:
    source, target = pair
    if source < 0 or target < 0 or nodes[source].kind == "input" or nodes[target].kind == "output":
        return False
    return source >= target


Rows = list[list[tuple[int, float]]]


def _sugiyama_rows(edges: tuple[tuple[int, int], ...], count: int) -> tuple[Rows, list[tuple[int, ...]]]:
    """Rows of (number, place across), bends numbered from `count` on, and the path of every edge."""
    if not edges:
        return [], []
    try:
        from fast_sugiyama import from_edges
    except ImportError:  # it is made for Python 3.11 and later
        return _rows_by_longest_way(edges, count)
    rows: Rows = []
    after: dict[int, list[int]] = {}
    shift, bend = 0.0, count
    for places, width, height, drawn in from_edges(
        list(edges), vertex_spacing=1, dummy_vertices=True, dummy_size=0.4, crossing_minimization="median"
    ):
        numbers: dict[int, int] = {}
        for number, (across, along) in sorted((int(name), at) for name, at in places):
            if number >= count:  # parts that hang together are numbered each for themselves
                numbers[number], bend = bend, bend + 1
            at = round(height - along)
            rows += [[] for _ in range(at + 1 - len(rows))]
            rows[at].append((numbers.get(number, number), round(shift + across, 3)))
        for source, target in ((int(a), int(b)) for a, b in drawn or ()):
            after.setdefault(numbers.get(source, source), []).append(numbers.get(target, target))
        shift += width + 1
    return rows, _paths(edges, after, count)


def _paths(edges: Iterable[tuple[int, int]], after: dict[int, list[int]], count: int) -> list[tuple[int, ...]]:
    """The way of each edge over its bends."""
    ways: dict[tuple[int, int], tuple[int, ...]] = {}
    for source in range(count):
        for step in after.get(source, ()):
            path = [source, step]
            while path[-1] >= count:
                path.append(after[path[-1]][0])
            ways[source, path[-1]] = tuple(path)
    found = []
    for source, target in edges:
        back = ways.get((target, source))
        found.append(ways.get((source, target)) or (back[::-1] if back else (source, target)))
    return found


def _rows_by_longest_way(edges: tuple[tuple[int, int], ...], count: int) -> tuple[Rows, list[tuple[int, ...]]]:
    """Rows by the longest way from a source, in the order of the run; every line straight."""
    before: dict[int, list[int]] = {}
    for source, target in edges:
        before.setdefault(target, []).append(source)
    row = [0] * count
    for _ in range(count):
        moved = False
        for target, sources in before.items():
            wanted = 1 + max(row[source] for source in sources)
            if wanted > row[target]:
                row[target], moved = wanted, True
        if not moved:
            break
    rows: Rows = [[] for _ in range(max(row) + 1)]
    for number in range(count):
        rows[row[number]].append((number, float(len(rows[row[number]]))))
    return rows, list(edges)
