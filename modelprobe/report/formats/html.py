"""A report to keep and to send: one HTML file that fetches nothing and reads well without JavaScript.

Everything foreign passes `esc`. Styles are scoped under `.mp`, so that a fragment in a notebook changes nothing around
it. The script only adds: without it every row is there, in order, and readable.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from modelprobe.report.blocks import Block, Cell, Column, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.formats import Style
from modelprobe.report.units import NUMERIC, heading, labelled, printable, shape, text

NOTE_LABELS = {Level.INFO: "note", Level.ASSUMED: "assumed", Level.WARNING: "warning"}

IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
"""Formats a browser shows inside an <img>, where a picture cannot run scripts."""

MAX_EMBEDDED_BYTES = 32 * 2**20


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
        f"<title>{esc(report.heading)}</title>\n<style>{PAGE_CSS}{CSS}</style>\n</head>\n<body>\n"
        f"{_html_article(report)}\n<script>{JS}</script>\n</body>\n</html>\n"
    )


def fragment(report: Report) -> str:
    """The report without a page around it, for a notebook: styles scoped to it, no script."""
    # Three times the class outweighs Jupyter's own rules for tables and lists.
    styles = re.sub(r"\.mp(?=[ {])", ".mp.mp.mp", CSS) + NOTEBOOK_CSS
    return f"<style>{styles}</style>\n{_html_article(report)}\n"


def esc(foreign: str) -> str:
    """Foreign text for an element or a quoted attribute."""
    return escape(printable(foreign), quote=True)


def _html_article(report: Report) -> str:
    parts = [
        f'<article class="mp">\n<h1>{esc(report.heading)}</h1>',
        blocks_html(report.blocks),
        foot(report),
        "</article>",
    ]
    return "\n".join(part for part in parts if part)


def blocks_html(blocks: Iterable[Block]) -> str:
    """Blocks in order, the notes behind the others, for an element of class `mp`."""
    shown = list(blocks)
    parts = [_html_block(block) for block in shown if not isinstance(block, Note)]
    notes = "\n".join(_html_note(block) for block in shown if isinstance(block, Note))
    if notes:
        parts.append(f'<section class="mp-notes" aria-label="Notes">\n{notes}\n</section>')
    return "\n".join(parts)


def foot(report: Report) -> str:
    """The line at the end: the schema, and what it takes to have the same answer again."""
    env = " · ".join(f"{esc(str(key))} {esc(_html_plain(value))}" for key, value in report.env.items())
    return f"<footer>{esc(report.schema)}{' · ' if env else ''}{env}</footer>"


def _html_plain(value: object) -> str:
    return shape(value) if isinstance(value, (tuple, list)) and value else str(value)


def _html_block(block: Block) -> str:
    if isinstance(block, Facts):
        return _html_facts(block)
    if isinstance(block, Table):
        return _html_table(block)
    assert isinstance(block, Figure)
    return _html_figure(block)


def _html_note(note: Note) -> str:
    return (
        f'<p class="mp-note mp-{note.level.value}"><b>{NOTE_LABELS[note.level]}</b> <span>{esc(note.text)}</span></p>'
    )


def _html_facts(facts: Facts) -> str:
    lines = [f"<h2>{esc(facts.title)}</h2>"] if facts.title else []
    lines.append('<dl class="mp-facts">')
    for fact in facts.items:
        detail = f" <small>{esc(fact.detail)}</small>" if fact.detail else ""
        tone = f' class="mp-{fact.tone.value}"' if fact.tone else ""
        value = f"<span{tone}{_html_title(fact.value)}>{esc(labelled(fact.value, fact.unit))}</span>"
        lines.append(f"<div><dt>{esc(fact.label)}</dt><dd>{value}{detail}</dd></div>")
    return "\n".join([*lines, "</dl>"])


def _html_table(table: Table) -> str:
    title = f"<h2>{esc(table.title)}</h2>\n" if table.title else ""
    kind = "mp-tree" if table.tree else "mp-flat"
    lines = [f'{title}<div class="mp-table {kind}"><div class="mp-scroll" tabindex="0"><table>', "<thead><tr>"]
    lines += [_html_header(column) for column in table.columns]
    lines += ["</tr></thead>", "<tbody>", *(_html_row(row, table) for row in table.rows), "</tbody>"]
    if table.footer is not None:
        lines += ["<tfoot>", _html_row(Row(table.footer), table), "</tfoot>"]
    if not table.rows:
        lines.append("<caption>no rows</caption>")
    return "\n".join([*lines, "</table></div></div>"])


def _html_header(column: Column) -> str:
    numeric = ' class="mp-n"' if column.unit in NUMERIC else ""
    return f'<th scope="col"{numeric}>{esc(heading(column.title, column.unit))}</th>'


def _html_row(row: Row, table: Table) -> str:
    depth = f' data-depth="{row.depth}"' if table.tree else ""
    look = "quiet" if row.quiet else row.tone.value if row.tone else ""
    quiet = f' class="mp-{look}"' if look else ""
    cells = [_html_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
    if cells:
        indent = f' style="--depth:{int(row.depth)}"' if row.depth else ""
        mark = f' <span class="mp-mark">{esc(row.mark)}</span>' if row.mark else ""
        value = text(row.cells[0], table.columns[0].unit)
        cells[0] = f'<th scope="row"{indent}><span>{esc(value)}</span>{mark}</th>'
    return f"<tr{depth}{quiet}>{''.join(cells)}</tr>"


def _html_cell(value: Cell, column: Column) -> str:
    shown = esc(text(value, column.unit))
    if column.unit not in NUMERIC:
        return f"<td>{shown}</td>"
    bar = _html_bar(value) if column.bar and value is not None else ""
    return f'<td class="mp-n"{_sort_value(value)}{_html_title(value)}>{shown}{bar}</td>'


def _sort_value(value: Cell) -> str:
    return f' data-v="{value!r}"' if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _html_title(value: Cell) -> str:
    """The exact integer behind a scaled number."""
    return f' title="{value}"' if isinstance(value, int) and not isinstance(value, bool) else ""


def _html_bar(value: Cell) -> str:
    part = min(1.0, max(0.0, value)) if isinstance(value, (int, float)) and value == value else 0.0
    return f'<i class="mp-bar" style="--part:{part:.4f}" aria-hidden="true"></i>'


def _html_figure(figure: Figure) -> str:
    caption = f"<figcaption>{esc(figure.caption)}</figcaption>" if figure.caption else ""
    if figure.path is None:
        return f"<figure>{caption}<p>(not written)</p></figure>"
    source = _html_embedded(figure.path)
    if not source:
        return f"<figure>{caption}<p>{esc(str(figure.path))} (not embedded)</p></figure>"
    return f'<figure><img src="{source}" alt="{esc(figure.caption or figure.path.name)}">{caption}</figure>'


def _html_embedded(path: Path) -> str:
    """The picture as a data URI; empty when it is gone, of an unknown kind, or too large to embed."""
    kind = IMAGE_TYPES.get(path.suffix.lower())
    try:
        if not kind or path.stat().st_size > MAX_EMBEDDED_BYTES:
            return ""
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        return ""


PAGE_CSS = """
html{background:#f6f7f9}body{margin:0;padding:1.5rem 1rem 4rem}
@media(prefers-color-scheme:dark){html{background:#101216}}
@media print{html{background:none}body{padding:0}}
@media(max-width:40rem){.mp{padding:1rem .8rem}.mp .mp-facts{grid-template-columns:1fr 1fr;gap:.6rem 1rem}
.mp tbody th,.mp thead th:first-child{position:sticky;left:0;background:var(--bg);z-index:1;max-width:48vw;
overflow:hidden;text-overflow:ellipsis}.mp thead th:first-child{z-index:2;background:var(--alt)}}
"""

# Pixels, as one of Jupyter's style sheets has a `rem` of 10 of them.
CSS = """
.mp{--fg:#1c2026;--soft:#646c78;--line:#e2e5ea;--bg:#fff;--alt:#f8f9fb;--hover:#eef3fb;--accent:#2f6fde;
--bar:#8fb4f3;--warn:#b3261e;--warnbg:#fdf0ef;--ass:#8a5a00;--assbg:#fdf6e3;--note:#2559a8;--notebg:#eff5fd;--good:#1a7f37;
font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;color:var(--fg);
background:var(--bg);max-width:min(1536px,100%);width:fit-content;min-width:min(100%,832px);margin:0 auto;
padding:24px 32px;border:1px solid var(--line);border-radius:10px;box-sizing:border-box;
overflow-wrap:anywhere;text-align:left}
@media(prefers-color-scheme:dark){.mp{--fg:#e3e6eb;--soft:#98a1af;--line:#2c313a;--bg:#181b20;--alt:#1d2127;
--hover:#232a36;--accent:#7eaaf5;--bar:#3a63a8;--warn:#f2a49d;--warnbg:#331c1b;--ass:#e6bd6a;--assbg:#2e2716;
--note:#a3c3f7;--notebg:#1a2535;--good:#6cc58a}}
.mp *{box-sizing:border-box}
.mp h1{font-size:24px;line-height:1.25;margin:0 0 16px;font-weight:650;letter-spacing:-.01em;color:inherit}
.mp h2{font-size:16.8px;margin:28px 0 9.6px;font-weight:620;color:inherit}
.mp .mp-facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(208px,1fr));gap:14.4px 24px;margin:0}
.mp .mp-facts div{margin:0}.mp .mp-facts+.mp-facts{margin-top:14.4px}
.mp dt{color:var(--soft);font-size:12.8px;font-weight:500}
.mp dd{margin:0;font-weight:600;font-size:16px;font-variant-numeric:tabular-nums}
.mp dd small{display:block;color:var(--soft);font-weight:400;font-size:12.8px}
.mp .mp-table{margin:24px 0 0}.mp h2+.mp-table{margin-top:0}
.mp .mp-scroll{overflow:auto;max-height:85vh;border:1px solid var(--line);border-radius:8px}
.mp .mp-scroll:focus-visible{outline:2px solid var(--accent)}
.mp table{border-collapse:separate;border-spacing:0;width:100%;font-size:13.76px;margin:0;color:inherit;
background:var(--bg)}
.mp caption{padding:9.6px;color:var(--soft)}
.mp th,.mp td{padding:4.48px 11.2px;text-align:left;vertical-align:top;border:0;white-space:nowrap;
background:transparent}
.mp thead th{position:sticky;top:0;z-index:1;background:var(--alt);border-bottom:1px solid var(--line);
font-weight:600;color:var(--soft);font-size:12.8px}
.mp tbody tr{background:none}
.mp tbody tr+tr>*{border-top:1px solid var(--line)}
.mp tbody tr:hover{background:var(--hover)}
.mp tbody th,.mp tfoot th{font-weight:500;padding-left:calc(11.2px + var(--depth,0)*20px)}
.mp tfoot th,.mp tfoot td{position:sticky;bottom:0;background:var(--alt);border-top:2px solid var(--line);
font-weight:650}
.mp .mp-n{text-align:right;font-variant-numeric:tabular-nums}
.mp .mp-quiet{color:var(--soft)}.mp .mp-key{color:var(--accent)}
.mp .mp-good,.mp .mp-good th{color:var(--good)}.mp .mp-bad,.mp .mp-bad th{color:var(--warn)}
.mp .mp-mark{color:var(--soft);font-size:12.48px;border:1px solid var(--line);border-radius:9px;padding:0 .45em;
margin-left:.35em;font-weight:400}
.mp .mp-bar{display:inline-block;width:80px;height:.6em;margin-left:.6em;border-radius:3px;
background:linear-gradient(var(--bar),var(--bar)) 0/calc(var(--part)*100%) 100% no-repeat var(--line);
print-color-adjust:exact;-webkit-print-color-adjust:exact}
.mp figure{margin:24px 0}.mp figure img{max-width:100%;height:auto;border-radius:6px}
.mp figcaption{color:var(--soft);font-size:13.6px;margin-top:5.6px}
.mp .mp-notes{margin-top:28px}
.mp .mp-note{display:flex;gap:.8em;margin:8px 0;padding:8.8px 14.4px;border-radius:7px;border-left:3px solid}
.mp .mp-note b{flex:0 0 5.2em;white-space:nowrap;font-weight:650}.mp .mp-note span{color:var(--fg);min-width:0}
.mp .mp-info{background:var(--notebg);color:var(--note)}
.mp .mp-assumed{background:var(--assbg);color:var(--ass)}
.mp .mp-warning{background:var(--warnbg);color:var(--warn)}
.mp footer{margin-top:28px;color:var(--soft);font-size:12.48px}
.mp .mp-tools{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin:4px 0 9.6px;font-size:13.6px}
.mp .mp-tools input,.mp .mp-tools button{font:inherit;color:inherit;background:var(--bg);
border:1px solid var(--line);border-radius:6px;padding:4px 10.4px}
.mp .mp-tools input{flex:0 1 288px;min-width:128px}
.mp .mp-tools button{cursor:pointer}.mp .mp-tools button:hover{background:var(--hover)}
.mp .mp-tools output{color:var(--soft)}
.mp .mp-sort{all:unset;cursor:pointer;white-space:nowrap}
.mp .mp-sort{position:relative}.mp .mp-sort::after{content:"\\2195";opacity:0;position:absolute;right:-.85em}
.mp .mp-sort:hover::after,.mp .mp-sort:focus-visible::after{opacity:.5}
.mp [aria-sort=ascending] .mp-sort::after{content:"\\2191";opacity:1;color:var(--accent)}
.mp [aria-sort=descending] .mp-sort::after{content:"\\2193";opacity:1;color:var(--accent)}
.mp .mp-fold{all:unset;cursor:pointer;display:inline-block;width:20px;color:var(--soft);text-align:center}
.mp .mp-fold::before{content:"\\25be"}.mp .mp-fold[aria-expanded=false]::before{content:"\\25b8"}
.mp .mp-leaf{display:inline-block;width:20px}
.mp .mp-sort:focus-visible,.mp .mp-fold:focus-visible{outline:2px solid var(--accent);border-radius:3px}
@media(max-width:40rem){.mp{padding:16px;border-radius:0}.mp .mp-bar{display:none}}
@media print{.mp{max-width:none;border:0;padding:0;background:none}.mp .mp-tools,.mp .mp-sort::after,
.mp .mp-fold::before{display:none}.mp .mp-scroll{overflow:visible;max-height:none;border:0}
.mp thead th,.mp tfoot th,.mp tfoot td{position:static}.mp tr,.mp .mp-note{break-inside:avoid}}
"""

NOTEBOOK_CSS = """
.mp.mp.mp table{table-layout:auto}
.mp.mp.mp dt,.mp.mp.mp dd{float:none;width:auto;padding:0;clear:none;overflow:visible}
.mp.mp.mp tbody tr:nth-child(odd),.mp.mp.mp tbody tr:nth-child(even){background:none}
.mp.mp.mp.mp .mp-n{text-align:right}
"""

JS = """
"use strict";
document.querySelectorAll(".mp-table").forEach(function (box) {
  var table = box.querySelector("table"), body = table.tBodies[0];
  var tree = box.classList.contains("mp-tree");
  if (!body || body.rows.length < 2) return;
  var root = { depth: -1, kids: [] }, path = [root];
  var all = Array.from(body.rows).map(function (row, order) {
    var node = { row: row, order: order, kids: [], open: true, depth: tree ? Number(row.dataset.depth) : 0 };
    node.words = row.textContent.toLowerCase();
    while (path[path.length - 1].depth >= node.depth) path.pop();
    path[path.length - 1].kids.push(node);
    path.push(node);
    return node;
  });

  if (tree && all.length > 60) {  // it opens at as many levels as a screen holds
    for (var level = 1; all.filter(function (node) { return node.depth <= level; }).length <= 60;) level++;
    all.forEach(function (node) { node.open = node.depth < Math.max(1, level - 1); });
  }

  function element(tag, kind, text) {
    var made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    if (tag === "button") made.type = "button";
    return made;
  }
  var tools = element("div", "mp-tools"), wanted = element("input"), count = element("output");
  wanted.type = "search";
  wanted.placeholder = "Filter rows";
  wanted.setAttribute("aria-label", "Filter rows");
  wanted.addEventListener("input", show);
  tools.append(wanted);

  function matches(node, words) {
    var below = node.kids.map(function (kid) { return matches(kid, words); }).some(Boolean);
    node.hit = words.every(function (word) { return node.words.indexOf(word) >= 0; });
    node.kept = node.hit || below;
    return node.kept;
  }
  function show() {
    var words = wanted.value.toLowerCase().split(/\\s+/).filter(Boolean);
    matches({ kids: root.kids, words: "" }, words);
    function walk(kids, visible) {
      kids.forEach(function (node) {
        node.row.hidden = words.length ? !node.kept : !visible;
        if (node.button) node.button.setAttribute("aria-expanded", String(node.open));
        walk(node.kids, visible && node.open);
      });
    }
    walk(root.kids, true);
    var hits = all.filter(function (node) { return node.hit; }).length;
    count.textContent = words.length ? hits + " of " + all.length + " rows" : "";
  }
  function fold(open) {
    all.forEach(function (node) { node.open = open || node.depth === 0 && root.kids.length === 1; });
    show();
  }
  if (all.some(function (node) { return node.kids.length; })) {
    all.forEach(function (node) {
      var name = node.row.cells[0], fold = element(node.kids.length ? "button" : "span", "mp-leaf");
      if (node.kids.length) {
        node.button = fold;
        fold.className = "mp-fold";
        fold.setAttribute("aria-label", "Children of " + name.textContent);
        fold.addEventListener("click", function () { node.open = !node.open; show(); });
      }
      name.prepend(fold);
    });
    [["Expand all", true], ["Collapse all", false]].forEach(function (pair) {
      var button = element("button", "", pair[0]);
      button.addEventListener("click", function () { fold(pair[1]); });
      tools.append(button);
    });
  }
  tools.append(count);
  box.prepend(tools);

  function value(node, column, numeric) {
    var cell = node.row.cells[column];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.v === undefined ? NaN : Number(cell.dataset.v);
  }
  function arrange(column, numeric, sign) {
    function before(a, b) {
      if (!sign) return a.order - b.order;
      var x = value(a, column, numeric), y = value(b, column, numeric);
      if (numeric) {
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.order - b.order;
        return x === y ? a.order - b.order : sign * (x < y ? -1 : 1);
      }
      return sign * x.localeCompare(y, undefined, { numeric: true }) || a.order - b.order;
    }
    var sorted = document.createDocumentFragment();
    (function walk(kids) {
      kids.slice().sort(before).forEach(function (node) { sorted.append(node.row); walk(node.kids); });
    })(root.kids);
    body.append(sorted);
  }
  var heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head, column) {
    var numeric = head.classList.contains("mp-n"), button = element("button", "mp-sort", head.textContent);
    head.textContent = "";
    head.append(button);
    button.title = tree ? "Sort siblings by this column" : "Sort by this column";
    button.addEventListener("click", function () {
      var now = head.getAttribute("aria-sort"), first = numeric ? "descending" : "ascending";
      var second = numeric ? "ascending" : "descending";
      var next = !now ? first : now === first ? second : "";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      if (next) head.setAttribute("aria-sort", next);
      arrange(column, numeric, next === "descending" ? -1 : next ? 1 : 0);
    });
  });
  show();
});
"""
