"""A graph in the languages of Graphviz and Mermaid: modules are clusters, operators and closed modules are nodes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from modelprobe.graph.graph import WHOLE_MODEL, GraphNode, ModelGraph
from modelprobe.graph.scene import detail_of, title_of


def dot_of(graph: ModelGraph, opened: Collection[int], across: bool = False) -> str:
    """Graphviz' language; names are quoted."""

    def lines(number: int, depth: int) -> Iterator[str]:
        pad = "  " * depth
        for node in inside.get(number, ()):
            if node.id in opened and node.id in inside:
                yield f"{pad}subgraph cluster_{node.id} {{"
                yield f"{pad}  label={_dot_text(title_of(node))};"
                yield from lines(node.id, depth + 1)
                yield f"{pad}}}"
            else:
                red = ', color="red"' if node.kind == "failed" else ""
                shape = "ellipse" if node.kind in ("input", "output") else "box"
                yield f"{pad}n{node.id} [label={_dot_text(title_of(node), detail_of(node))}, shape={shape}{red}];"

    inside = _nodes_inside(graph)
    body = ["digraph model {", f"  rankdir={'LR' if across else 'TB'};", *lines(WHOLE_MODEL, 1)]
    for source, target, shapes, repeats in closed_edges(graph, opened):
        style = ", style=dashed" if repeats else ""
        body.append(f"  n{source} -> n{target} [label={_dot_text(*shapes)}{style}];")
    return "\n".join((*body, "}", ""))


def mermaid_of(graph: ModelGraph, opened: Collection[int], across: bool = False) -> str:
    """Mermaid's language, with what could be markup as character codes."""

    def lines(number: int, depth: int) -> Iterator[str]:
        pad = "  " * depth
        for node in inside.get(number, ()):
            if node.id in opened and node.id in inside:
                yield f'{pad}subgraph n{node.id} ["{_mermaid_text(title_of(node))}"]'
                yield from lines(node.id, depth + 1)
                yield f"{pad}end"
            else:
                text = "<br>".join(_mermaid_text(line) for line in (title_of(node), detail_of(node)) if line)
                yield f'{pad}n{node.id}["{text}"]' + (":::failed" if node.kind == "failed" else "")

    inside = _nodes_inside(graph)
    body = [
        f"flowchart {'LR' if across else 'TB'}",
        "  classDef failed fill:#ffd9d6,stroke:#d03a2f",
        *lines(WHOLE_MODEL, 1),
    ]
    for source, target, shapes, repeats in closed_edges(graph, opened):
        arrow = "-.->" if repeats else "-->"
        body.append(f'  n{source} {arrow}|"{_mermaid_text(", ".join(shapes))}"| n{target}')
    return "\n".join((*body, ""))


def closed_edges(graph: ModelGraph, opened: Collection[int]) -> list[tuple[int, int, tuple[str, ...], bool]]:
    """Edges between the boxes that are seen when only those of `opened` are open: source, target, shapes, repeats."""
    seen: dict[int, int] = {}
    for node in graph.nodes:
        above = seen.get(node.parent, node.parent)
        hidden = node.parent >= 0 and (node.parent not in opened or above != node.parent)
        seen[node.id] = above if hidden else node.id
    found: dict[tuple[int, int, bool], dict[str, None]] = {}
    for edge in graph.edges:
        source, target = seen[edge.source], seen[edge.target]
        if source != target:
            found.setdefault((source, target, edge.repeats), {})[edge.shape] = None
    return [(source, target, tuple(shapes), repeats) for (source, target, repeats), shapes in found.items()]


def _nodes_inside(graph: ModelGraph) -> dict[int, list[GraphNode]]:
    found: dict[int, list[GraphNode]] = {}
    for node in graph.nodes[1:]:
        found.setdefault(node.parent, []).append(node)
    return found


def _dot_text(*lines: str) -> str:
    quoted = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(quoted) + '"'


def _mermaid_text(text: str) -> str:
    return re.sub(r"[^\w .,:=()/+\-…]", lambda found: f"#{ord(found[0])};", text)
