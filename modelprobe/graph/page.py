"""A graph as one page that needs nothing else: styles, program and data stand in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from modelprobe.graph.graph import GraphOverlay, ModelGraph
from modelprobe.graph.levels import levels_of
from modelprobe.graph.overlays import differences_between, pairs_of
from modelprobe.report.blocks import plain

OVERLAYS = {
    "": "no colors", "macs": "MACs", "parameters": "parameters", "bytes": "bytes moved",
    "activations": "activation bytes", "intensity": "intensity",
}  # fmt: skip


def page_of(
    graph: ModelGraph, opened: Collection[int], across: bool = False, overlays: Sequence[GraphOverlay] = ()
) -> str:
    """The page, with the boxes of `opened` open. It loads nothing, and runs no script but its own."""
    return whole_page(graph.model, viewer_of(graph, opened, across, overlays), styles())


def page_of_two(
    graphs: tuple[ModelGraph, ModelGraph], opened: Sequence[Collection[int]], across: bool = False,
    overlays: Sequence[GraphOverlay] = (),
) -> str:  # fmt: skip
    """Two graphs beside each other: what is chosen in one is chosen in the other, and colours show what differs.

    `overlays` are of the first.
    """
    pairs = pairs_of(*graphs)
    back = {other: one for one, other in pairs.items()}
    between = differences_between(*graphs, pairs), differences_between(*graphs[::-1], back)
    sides = zip(graphs, opened, ((*overlays, between[0]), between[1:]), (pairs, back), strict=True)
    body = "".join(viewer_of(graph, open_, across, own, pair) for graph, open_, own, pair in sides)
    title = " | ".join(graph.model for graph in graphs)
    return whole_page(title, f'<div class="two-graphs">{body}</div>', styles())


def whole_page(title: str, body: str, style: str, more: tuple[str, ...] = ()) -> str:
    """A page with the viewer's script, and `more` scripts, as the only ones that a browser runs."""
    scripts = (program(), *more)
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"
    run = "".join(f"<script>{script}</script>" for script in scripts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}{run}</body></html>\n"
    )


def viewer_of(
    graph: ModelGraph, opened: Collection[int], across: bool = False, overlays: Sequence[GraphOverlay] = (),
    pairs: Mapping[int, int] | None = None,
) -> str:  # fmt: skip
    """The viewer's elements and its data, for a page of one's own. The first of `overlays` colours it at once.

    `pairs` says of each box which one of the page's other viewer is chosen with it.
    """
    words = {**OVERLAYS, **{overlay.key: overlay.title for overlay in overlays}}
    first = overlays[0].key if overlays else ""
    choices = "".join(
        f'<option value="{escape(value)}"{" selected" if value == first else ""}>{escape(word)}</option>'
        for value, word in words.items()
    )
    data = {**_data(graph, opened, across), "overlays": plain(overlays), "pairs": pairs}
    facts = f"{graph.operators:,} operators, {len(graph.nodes):,} boxes, {len(graph.edges):,} edges"
    failure = f'<div class="failure">{escape(graph.failure)}</div>' if graph.failure else ""
    return (
        f'<div class="graph"><header><h1>{escape(graph.model)}</h1><span class="facts">{facts}</span>'
        '<input type="search" placeholder="search ( / )" aria-label="search">'
        f'<select aria-label="colors">{choices}</select><button class="fit">Fit</button>'
        f'<button class="close">Close all</button>{failure}</header>'
        '<div class="canvas" tabindex="0" aria-label="graph: double click or Enter opens a box, / searches, j and k '
        'step, + - 0 zoom"><svg role="img"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs></svg>'
        '<ul class="found"></ul></div><aside></aside>'
        f'<script type="application/json" class="graph-data">{_script_json(data)}</script></div>'
    )


def styles() -> str:
    """The viewer's style sheet."""
    return _page_part("page.css")


def program() -> str:
    """The viewer's script."""
    return _page_part("page.js")


def _data(graph: ModelGraph, opened: Collection[int], across: bool) -> dict[str, Any]:
    levels = {
        number: {"rows": level.rows, "lines": [(line.items, line.shapes, line.repeats) for line in level.lines]}
        for number, level in levels_of(graph).items()
    }
    return {"nodes": plain(graph.nodes), "levels": levels, "opened": sorted(opened), "across": across}


def _script_json(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page_part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
