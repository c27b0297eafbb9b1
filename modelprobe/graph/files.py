"""The formats that a graph is written in, by the suffix of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelprobe.errors import BadInput
from modelprobe.graph.graph import WHOLE_MODEL, GraphOverlay, ModelGraph

SUFFIXES = (".html", ".svg", ".png", ".dot", ".mmd", ".json")
FEW = 60
"""About as many boxes a picture shows where no depth is asked for."""


def check_suffix(path: Path) -> None:
    """Raise BadInput for a suffix that names no format."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{path.name!r} names no format of a graph", f"use one of {', '.join(SUFFIXES)}")


def content_of(
    graph: ModelGraph, suffix: str, depth: int | None, across: bool, overlays: Sequence[GraphOverlay] = (),
    beside: ModelGraph | None = None,
) -> str | bytes:  # fmt: skip
    """What the file holds. With a `depth` everything to there is open, else about as much as can be taken in.

    A page takes `overlays`, and a second graph `beside` the first.
    """
    opened = opened_boxes(graph, depth)
    if suffix == ".html":
        from modelprobe.graph.page import page_of, page_of_two

        if beside is not None:
            return page_of_two((graph, beside), (opened, opened_boxes(beside, depth)), across, overlays)
        return page_of(graph, opened, across, overlays)
    if suffix in (".dot", ".mmd"):
        from modelprobe.graph.languages import dot_of, mermaid_of

        return (dot_of if suffix == ".dot" else mermaid_of)(graph, opened, across)
    from modelprobe.graph.pictures import png_of, svg_of
    from modelprobe.graph.scene import scene_of

    scene = scene_of(graph, opened, across)
    return svg_of(scene) if suffix == ".svg" else png_of(scene)


def opened_boxes(graph: ModelGraph, depth: int | None = None) -> set[int]:
    """The boxes to open: all, where the graph was cut at a depth; else level by level while few boxes show.

    What led to a failure is open in any case.
    """
    children = graph.children()
    if depth is not None:
        return set(children)
    opened = {WHOLE_MODEL}
    level, shown = [WHOLE_MODEL], len(children.get(WHOLE_MODEL, ()))
    while level:
        inside = (child for number in level for child in children.get(number, ()))
        level = [child for child in inside if _worth_opening(child, children, graph)]
        more = sum(len(children[number]) for number in level)
        if shown + more > FEW:
            break
        opened.update(level)
        shown += more
    parent = {node.id: node.parent for node in graph.nodes}
    for node in graph.nodes:
        at = node.parent
        while node.kind == "failed" and at >= 0:
            opened.add(at)
            at = parent[at]
    return opened


def _worth_opening(number: int, children: dict[int, list[int]], graph: ModelGraph) -> bool:
    """Whether there is more to see inside than one operator."""
    inside = children.get(number, ())
    return len(inside) > 1 or any(graph.nodes[child].kind == "module" for child in inside)
