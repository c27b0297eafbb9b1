"""`index.html` beside the images: one page that shows all of them, with an index and a zoom.

It fetches nothing but the images next to it and holds no script. Foreign names pass `esc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from modelprobe.files.directory import Folder
from modelprobe.report.blocks import Fact, Facts, Level, Note, Report
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.report.formats.html import CSS, NOTE_LABELS, PAGE_CSS, esc
from modelprobe.report.units import labelled
from modelprobe.vision.walk import Walked

T = TypeVar("T")

STYLE = """
.mp{width:auto;max-width:min(120rem,100%)}.mp section{margin:2.2rem 0 0;border-top:1px solid var(--line)}
.mp section h2{margin-top:1.2rem}.mp h3{font-size:.98rem;margin:1.8rem 0 .2rem;font-weight:620}
.mp p.facts{margin:0 0 .6rem;color:var(--soft);font-size:.83rem;font-variant-numeric:tabular-nums}
.mp .shots{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
.mp .shots figure{margin:0;max-width:100%}
.mp .side{display:flex;flex-direction:column;gap:1rem}
.mp .mp-facts div.wide{grid-column:1/-1}.mp div.wide dd{font-weight:400}
.mp .shots img{display:block;max-width:100%;height:auto;border:1px solid var(--line);background:#fff}
.mp nav{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr));gap:.7rem;font-size:.78rem;
margin-top:1.2rem}.mp nav img{display:block;width:100%;height:5rem;object-fit:contain;background:#fff}
.mp nav a{overflow-wrap:anywhere}.mp a{color:var(--accent)}
.mp details>summary{cursor:pointer;color:var(--accent);font-size:.9rem;margin:.8rem 0}
.zoom{display:none;position:fixed;inset:0;z-index:9;background:rgba(0,0,0,.86);padding:1rem;
align-items:center;justify-content:center}.zoom:target{display:flex}
.zoom img{width:min(100%,80rem);max-height:100%;object-fit:contain;background:#fff}
"""

LONG = 40
"""A fact of more characters than this has a line of its own."""

OPEN = 8
"""Of more images than this the later ones are folded, so that the page opens quickly."""

POLICY = (
    "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Shot:
    """A picture that lies at `path` below the page, and what it shows. One that is `wide` has others beside it."""

    path: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Panel:
    """Pictures side by side, under a heading and a line of facts."""

    heading: str
    facts: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Section:
    """One image: what it is called, its directory, its panels; or the error that kept it from being looked at."""

    image: str
    folder: str
    panels: Sequence[Panel]
    error: str = ""


def sections_of(walked: Walked[T], panels: Callable[[T], Sequence[Panel]]) -> list[Section]:
    """What the page shows of images, given what it shows of what was kept of one."""
    return [
        Section(one.image, one.folder, () if one.kept is None else panels(one.kept), one.error) for one in walked.images
    ]


def write_pages(folder: Folder, report: Report, sections: Sequence[Section]) -> None:
    """Write `index.html` and `report.json` into the folder."""
    folder.write("index.html", gallery(report, sections))
    text = RENDERERS["json"].render(report, Style(80, colour=False, unicode=True))
    folder.write("report.json", text)


def gallery(report: Report, sections: Sequence[Section]) -> str:
    """The page. Warnings come first: a gallery of random weights must not be taken for anything else."""
    notes = [block for block in report.blocks if isinstance(block, Note)]
    loud = _notes_section(note for note in notes if note.level is not Level.INFO)
    quiet = _notes_section(note for note in notes if note.level is Level.INFO)
    facts = "".join(_facts_section(block.items) for block in report.blocks if isinstance(block, Facts))
    links = "".join(_index_entry(one, index) for index, one in enumerate(sections))
    nav = f"<nav>{links}</nav>\n" if len(sections) > 1 else ""
    body = "\n".join(_image_section(one, index) for index, one in enumerate(sections))
    return gallery_page(report.title, f'{loud}<dl class="mp-facts">{facts}</dl>\n{nav}{body}\n{quiet}')


def gallery_page(title: str, body: str) -> str:
    """A whole page in the look of the HTML reports around `body`, which is HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="modelprobe">\n'
        f"<title>{esc(title)}</title>\n<style>{PAGE_CSS}{CSS}{STYLE}</style>\n</head>\n<body>\n"
        f'<article class="mp">\n<h1>{esc(title)}</h1>\n{body}\n</article>\n</body>\n</html>\n'
    )


def image_tag(path: str, caption: str = "") -> str:
    """An image that lies at `path` below the page; with its caption for those who cannot see it."""
    return f'<img src="{quote(path)}" alt="{esc(caption)}" loading="lazy">'


def _index_entry(one: Section, index: int) -> str:
    picture = "" if one.error else image_tag(f"{one.folder}/seen.png")
    return f'<a href="#p{index}">{picture}{esc(one.image)}</a>'


def _facts_section(facts: Iterable[Fact]) -> str:
    lines = []
    for fact in facts:
        if fact.label == "Written":
            continue
        detail = f" <small>{esc(fact.detail)}</small>" if fact.detail else ""
        value = labelled(fact.value, fact.unit)
        wide = ' class="wide"' if len(value) > LONG else ""
        lines.append(f"<div{wide}><dt>{esc(fact.label)}</dt><dd>{esc(value)}{detail}</dd></div>")
    return "".join(lines)


def _notes_section(notes: Iterable[Note]) -> str:
    return "".join(
        f'<p class="mp-note mp-{note.level.value}"><b>{NOTE_LABELS[note.level]}</b> <span>{esc(note.text)}</span></p>\n'
        for note in notes
    )


def _image_section(one: Section, index: int) -> str:
    head = f'<section id="p{index}"><h2>{esc(one.image)}</h2>\n'
    if one.error:
        return f"{head}{_notes_section([Note(one.error, Level.WARNING)])}</section>"
    seen = Panel("", "", [Shot(f"{one.folder}/seen.png", "what the model sees")])
    first = _panel(seen, f"p{index}", f"z{index}-s")
    panels = "\n".join(_panel(panel, f"p{index}", f"z{index}-{at}") for at, panel in enumerate(one.panels))
    if index < OPEN:
        return f"{head}{first}\n{panels}</section>"
    return f"{head}{first}\n<details><summary>{len(one.panels)} more</summary>\n{panels}</details></section>"


def _panel(panel: Panel, back: str, name: str) -> str:
    """Pictures side by side; a click shows one as large as the window, another one goes back."""
    head = f'<h3 id="{name}">{esc(panel.heading)}</h3>\n' if panel.heading else ""
    facts = f'<p class="facts">{esc(panel.facts)}</p>\n' if panel.facts else ""
    wide, narrow, zooms = "", "", ""
    for at, one in enumerate(panel.shots):
        image = image_tag(one.path, one.caption)
        figure = f'<figure><a href="#{name}-{at}">{image}</a></figure>'
        wide, narrow = (wide + figure, narrow) if one.wide else (wide, narrow + figure)
        zooms += f'<a class="zoom" id="{name}-{at}" href="#{name if panel.heading else back}">{image}</a>'
    shots = f'{wide}<div class="side">{narrow}</div>' if wide and narrow else wide + narrow
    return f'{head}{facts}<div class="shots">{shots}</div>{zooms}'
