"""A report to keep and to send: one HTML file that fetches nothing and reads well without JavaScript.

To add a format like this one:
1. Write `report/formats/x.py` with `render(report, style) -> str`.
2. Register it in `report/formats/__init__.py`.
3. Add its golden text.

Looks and behaviour stand in `page.py`. Everything foreign passes `esc`.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

from modelprobe.report.blocks import Block, Cell, Column, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.formats import Style
from modelprobe.report.formats.page import CSS, JS, PAGE_CSS
from modelprobe.report.units import NUMERIC, heading, labelled, printable, shape, text

LABELS = {Level.INFO: "note", Level.ASSUMED: "assumed", Level.WARNING: "warning"}

PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
"""Formats a browser shows inside an <img>, where a picture cannot run scripts."""

LARGEST_PICTURE = 32 * 2**20


def render(report: Report, style: Style) -> str:
    """A whole page. Its policy lets the one script run that stands in it, and nothing be fetched."""
    digest = base64.b64encode(hashlib.sha256(JS.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="modelprobe">\n'
        f"<title>{esc(report.title)}</title>\n<style>{PAGE_CSS}{CSS}</style>\n</head>\n<body>\n"
        f"{_article(report)}\n<script>{JS}</script>\n</body>\n</html>\n"
    )


def fragment(report: Report) -> str:
    """The report without a page around it, for a notebook: styles scoped to it, no script."""
    return f"<style>{CSS}</style>\n{_article(report)}\n"


def esc(foreign: str) -> str:
    """Foreign text for an element or a quoted attribute."""
    return escape(printable(foreign), quote=True)


def _article(report: Report) -> str:
    blocks = [_block(block) for block in report.blocks if not isinstance(block, Note)]
    notes = "\n".join(_note(note) for note in report.notes)
    if notes:
        blocks.append(f'<section class="mp-notes" aria-label="Notes">\n{notes}\n</section>')
    env = " · ".join(f"{esc(str(key))} {esc(_plain(value))}" for key, value in report.env.items())
    foot = f"<footer>{esc(report.schema)}{' · ' if env else ''}{env}</footer>"
    return "\n".join([f'<article class="mp">\n<h1>{esc(report.title)}</h1>', *blocks, foot, "</article>"])


def _plain(value: object) -> str:
    return shape(value) if isinstance(value, (tuple, list)) and value else str(value)


def _block(block: Block) -> str:
    if isinstance(block, Facts):
        return _facts(block)
    if isinstance(block, Table):
        return _table(block)
    assert isinstance(block, Figure)
    return _figure(block)


def _note(note: Note) -> str:
    return f'<p class="mp-note mp-{note.level.value}"><b>{LABELS[note.level]}</b> <span>{esc(note.text)}</span></p>'


def _facts(facts: Facts) -> str:
    lines = [f"<h2>{esc(facts.title)}</h2>"] if facts.title else []
    lines.append('<dl class="mp-facts">')
    for fact in facts.items:
        detail = f" <small>{esc(fact.detail)}</small>" if fact.detail else ""
        value = f"<span{_title(fact.value)}>{esc(labelled(fact.value, fact.unit))}</span>"
        lines.append(f"<div><dt>{esc(fact.label)}</dt><dd>{value}{detail}</dd></div>")
    return "\n".join([*lines, "</dl>"])


def _table(table: Table) -> str:
    title = f"<h2>{esc(table.title)}</h2>\n" if table.title else ""
    kind = "mp-tree" if table.tree else "mp-flat"
    lines = [f'{title}<div class="mp-table {kind}"><div class="mp-scroll" tabindex="0"><table>', "<thead><tr>"]
    lines += [_header(column) for column in table.columns]
    lines += ["</tr></thead>", "<tbody>", *(_row(row, table) for row in table.rows), "</tbody>"]
    if table.footer is not None:
        lines += ["<tfoot>", _row(Row(table.footer), table), "</tfoot>"]
    if not table.rows:
        lines.append("<caption>no rows</caption>")
    return "\n".join([*lines, "</table></div></div>"])


def _header(column: Column) -> str:
    numeric = ' class="mp-n"' if column.unit in NUMERIC else ""
    return f'<th scope="col"{numeric}>{esc(heading(column.title, column.unit))}</th>'


def _row(row: Row, table: Table) -> str:
    depth = f' data-depth="{row.depth}"' if table.tree else ""
    quiet = ' class="mp-quiet"' if row.quiet else ""
    cells = [_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
    if cells:
        indent = f' style="--depth:{int(row.depth)}"' if row.depth else ""
        mark = f' <span class="mp-mark">{esc(row.mark)}</span>' if row.mark else ""
        value = text(row.cells[0], table.columns[0].unit)
        cells[0] = f'<th scope="row"{indent}><span>{esc(value)}</span>{mark}</th>'
    return f"<tr{depth}{quiet}>{''.join(cells)}</tr>"


def _cell(value: Cell, column: Column) -> str:
    shown = esc(text(value, column.unit))
    if column.unit not in NUMERIC:
        return f"<td>{shown}</td>"
    bar = _bar(value) if column.bar and value is not None else ""
    return f'<td class="mp-n"{_sort_value(value)}{_title(value)}>{shown}{bar}</td>'


def _sort_value(value: Cell) -> str:
    return f' data-v="{value!r}"' if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _title(value: Cell) -> str:
    """The exact integer behind a scaled number."""
    return f' title="{value}"' if isinstance(value, int) and not isinstance(value, bool) else ""


def _bar(value: Cell) -> str:
    part = min(1.0, max(0.0, value)) if isinstance(value, (int, float)) and value == value else 0.0
    return f'<i class="mp-bar" style="--part:{part:.4f}" aria-hidden="true"></i>'


def _figure(figure: Figure) -> str:
    caption = f"<figcaption>{esc(figure.caption)}</figcaption>" if figure.caption else ""
    if figure.path is None:
        return f"<figure>{caption}<p>(not written)</p></figure>"
    source = _embedded(figure.path)
    if not source:
        return f"<figure>{caption}<p>{esc(str(figure.path))} (not embedded)</p></figure>"
    return f'<figure><img src="{source}" alt="{esc(figure.caption or figure.path.name)}">{caption}</figure>'


def _embedded(path: Path) -> str:
    """The picture as a data URI; empty when it is gone, of an unknown kind, or too large to embed."""
    kind = PICTURES.get(path.suffix.lower())
    try:
        if not kind or path.stat().st_size > LARGEST_PICTURE:
            return ""
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        return ""
