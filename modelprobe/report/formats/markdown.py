"""A report for an issue, a README or a chat: GitHub's Markdown."""

from __future__ import annotations

import re

from modelprobe.report.blocks import Block, Column, Facts, Figure, Note, Report, Row, Table
from modelprobe.report.formats import Style
from modelprobe.report.units import NUMERIC, heading, labelled, printable, text

INDENT = "\u00a0\u00a0\u00a0\u00a0"
"""One level of a tree: spaces that HTML does not collapse."""

_ACTIVE = re.compile(r"[\\`*\[\]|~#!$:]|(?<![^\W_])_|_(?![^\W_])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def render(report: Report, style: Style) -> str:
    """The title, the blocks in order, then the notes as quotes."""
    blocks = [_markdown_block(block) for block in report.blocks if not isinstance(block, Note)]
    notes = [f"> **{note.level.value}**: {escape(note.text)}" for note in report.notes]
    return "\n\n".join([f"## {escape(report.heading)}", *blocks, *notes]) + "\n"


def escape(foreign: str) -> str:
    """Text that Markdown shows as it stands: no markup, no HTML, no mention of anybody."""
    escaped = _ACTIVE.sub(_backslash, printable(foreign))
    return "".join(_HTML.get(character, character) for character in escaped)


def _backslash(match: re.Match[str]) -> str:
    # A colon matters in `https://` alone, where a backslash keeps a foreign text from becoming a link.
    after = match.string[match.end() : match.end() + 2]
    return ":" if match.group() == ":" and after != "//" else f"\\{match.group()}"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Facts):
        return _markdown_facts(block)
    if isinstance(block, Table):
        return _markdown_table(block)
    assert isinstance(block, Figure)
    return f"{escape(block.caption)} ({escape(str(block.path or 'not written'))})".strip()


def _markdown_facts(facts: Facts) -> str:
    lines = [f"### {escape(facts.title)}\n"] if facts.title else []
    for fact in facts.items:
        detail = f" ({escape(fact.detail)})" if fact.detail else ""
        lines.append(f"- **{escape(fact.label)}**: {escape(labelled(fact.value, fact.unit))}{detail}")
    return "\n".join(lines)


def _markdown_table(table: Table) -> str:
    lines = [f"### {escape(table.title)}\n"] if table.title else []
    lines.append(_markdown_line([escape(heading(column.title, column.unit)) for column in table.columns]))
    lines.append(_markdown_line(["---:" if column.unit in NUMERIC else "---" for column in table.columns]))
    lines += [_markdown_line(_markdown_cells(row, table.columns)) for row in table.rows]
    if table.footer is not None:
        cells = _markdown_cells(Row(table.footer), table.columns)
        lines.append(_markdown_line([f"**{cell}**" if cell else "" for cell in cells]))
    return "\n".join(lines)


def _markdown_cells(row: Row, columns: tuple[Column, ...]) -> list[str]:
    cells = [escape(text(cell, column.unit)) for cell, column in zip(row.cells, columns, strict=True)]
    mark = f" _{escape(row.mark)}_" if row.mark else ""
    return [f"{INDENT * row.depth}{cells[0]}{mark}", *cells[1:]] if cells else []


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
