"""The page of everything about one model: sections that fold, the graph's viewer and an icicle of where the cost is."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

from modelprobe.graph.files import opened_boxes
from modelprobe.graph.overview.curve import memory_curve
from modelprobe.graph.overview.gather import Overview
from modelprobe.graph.overview.times import MeasuredTimes, roofline_picture
from modelprobe.graph.page import styles, viewer_of, whole_page
from modelprobe.report.blocks import Block, Facts, with_zoo
from modelprobe.report.formats import Style, html, markdown

AMOUNTS = {
    "macs": "MACs", "parameters": "parameters", "bytes_moved": "bytes moved", "activation_bytes": "activation bytes",
}  # fmt: skip


def overview_page(overview: Overview) -> str:
    """The whole page. It loads nothing, and runs no scripts but its own."""
    sections = [_folding("Headline", html.blocks_html((overview.headline(), *overview.notes)))]
    sections.append(
        _folding("Graph", viewer_of(overview.graph, opened_boxes(overview.graph), overlays=overview.overlays))
    )
    sections.append(_folding("Where the cost lies", _icicle()))
    for section in overview.sections:
        blocks, curve = overview.blocks_of(section), ""
        if section.key == "memory" and overview.memory is not None:
            curve = memory_curve(overview.memory.line)
            blocks = tuple(map(_without_curve, blocks)) if curve else blocks
        if isinstance(section.result, MeasuredTimes):
            curve = roofline_picture(section.result)
        sections.append(_folding(section.title, curve + html.blocks_html(blocks)))
    copied = escape(markdown.render(overview.report(), Style()))
    body = (
        f'<article class="mp overview"><header class="top"><h1>{html.esc(with_zoo(overview.model, overview.env))}</h1>'
        '<button class="copy">Copy as Markdown</button><button class="all">Fold all</button></header>'
        f'{"".join(sections)}<textarea class="markdown" hidden readonly aria-hidden="true">{copied}</textarea>'
        f"{html.foot(overview.report())}</article>"
    )
    style = styles() + html.PAGE_CSS + html.CSS + _overview_file("overview.css")
    return whole_page(f"{overview.model}: report", body, style, (html.JS, _overview_file("overview.js")))


def _without_curve(block: Block) -> Block:
    """Facts without the line of little bars that stands for the curve."""
    if not isinstance(block, Facts):
        return block
    return replace(block, items=tuple(fact for fact in block.items if fact.label != "Over time"))


def _folding(title: str, inside: str) -> str:
    return f'<details class="part" open><summary><h2>{escape(title)}</h2></summary>{inside}</details>'


def _icicle() -> str:
    choices = "".join(f'<option value="{value}">{word}</option>' for value, word in AMOUNTS.items())
    return (
        f'<div class="icicle"><div class="mp-tools"><select aria-label="amount">{choices}</select>'
        '<button class="up">Whole model</button><output></output></div><div class="cells"></div></div>'
    )


def _overview_file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
