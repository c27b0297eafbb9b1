"""`index.html` beside the images: one page that shows all of them, with the figures of every layer.

It fetches nothing but the images next to it and holds no script. Foreign names pass `esc`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from modelprobe.report.blocks import Fact, Level, Note
from modelprobe.report.formats.html import CSS, NOTE_LABELS, PAGE_CSS, esc
from modelprobe.report.units import Unit, labelled, shape, text

if TYPE_CHECKING:
    from modelprobe.files.directory import Folder
    from modelprobe.vision.features.features import FeaturesResult, LayerFeature, PictureFeatures

STYLE = """
.mp{width:auto;max-width:min(120rem,100%)}.mp section{margin:2.2rem 0 0;border-top:1px solid var(--line)}
.mp section h2{margin-top:1.2rem}.mp h3{font-size:.98rem;margin:1.8rem 0 .2rem;font-weight:620}
.mp p.facts{margin:0 0 .6rem;color:var(--soft);font-size:.83rem;font-variant-numeric:tabular-nums}
.mp .shots{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
.mp .shots figure{margin:0;max-width:100%}
.mp .side{display:flex;flex-direction:column;gap:1rem}
.mp .mp-facts div.wide{grid-column:1/-1}.mp div.wide dd{font-weight:400}
.mp .shots img{display:block;max-width:100%;height:auto;border:1px solid var(--line);background:#fff}
.mp nav{display:flex;flex-wrap:wrap;gap:.3rem .9rem;font-size:.85rem;margin-top:1.2rem}.mp a{color:var(--accent)}
.mp details>summary{cursor:pointer;color:var(--accent);font-size:.9rem;margin:.8rem 0}
"""

LONG = 40
"""A fact of more characters than this has a line of its own."""

OPEN = 8
"""Of more images than this the later ones are folded, so that the page opens quickly."""

WIDE = ("grid", "frames")
"""Kinds of images that the others stand beside, one below the other."""

POLICY = (
    "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def write_gallery(folder: Folder, result: FeaturesResult) -> None:
    """Write `index.html` into the folder."""
    folder.write("index.html", gallery(result))


def gallery(result: FeaturesResult) -> str:
    """The page. Warnings come first: a gallery of random weights must not be taken for anything else."""
    title = f"{result.model}: what it sees"
    loud = _notes_section(note for note in result.notes if note.level is not Level.INFO)
    quiet = _notes_section(note for note in result.notes if note.level is Level.INFO)
    links = "".join(f'<a href="#p{i}">{esc(one.image)}</a>' for i, one in enumerate(result.pictures))
    nav = f"<nav>{links}</nav>\n" if len(result.pictures) > 1 else ""
    body = "\n".join(_picture(one, index) for index, one in enumerate(result.pictures))
    return gallery_page(title, f'{loud}<dl class="mp-facts">{_facts_section(result.facts)}</dl>\n{nav}{body}\n{quiet}')


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


def shot(path: str, caption: str) -> str:
    """One image that lies at `path` below the page, with its caption for those who cannot see it."""
    source = quote(path)
    return f'<figure><a href="{source}"><img src="{source}" alt="{esc(caption)}" loading="lazy"></a></figure>'


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


def _picture(picture: PictureFeatures, index: int) -> str:
    head = f'<section id="p{index}"><h2>{esc(picture.image)}</h2>\n'
    if picture.error:
        return f"{head}{_notes_section([Note(picture.error, Level.WARNING)])}</section>"
    seen = f'<div class="shots">{shot(f"{picture.folder}/seen.png", "what the model sees")}</div>'
    layers = "\n".join(map(_layer_section, picture.layers))
    if index < OPEN:
        return f"{head}{seen}\n{layers}</section>"
    count = len(picture.layers)
    return f"{head}{seen}\n<details><summary>{count} outputs</summary>\n{layers}</details></section>"


def _layer_section(layer: LayerFeature) -> str:
    stats = layer.stats
    numbers = (("mean", stats.mean), ("std", stats.std), ("min", stats.min), ("max", stats.max))
    said = [
        f"{layer.cls} {shape(layer.shape)} {layer.dtype}, {layer.layout}",
        *(f"{label} {text(value, Unit.NUMBER)}" for label, value in numbers),
        f"{text(stats.zero_share, Unit.SHARE)} zeros",
        f"{stats.dead:,} of {stats.channels:,} channels dead",
    ]
    if stats.nan or stats.inf:
        said.append(f"{stats.nan:,} NaN, {stats.inf:,} infinite")
    wide = "".join(shot(one.path, f"{layer.name}: {one.caption}") for one in layer.drawn if one.kind in WIDE)
    narrow = "".join(shot(one.path, f"{layer.name}: {one.caption}") for one in layer.drawn if one.kind not in WIDE)
    shots = f'{wide}<div class="side">{narrow}</div>' if narrow else wide
    facts = esc(" · ".join(said))
    return f'<h3>{esc(layer.name)}</h3>\n<p class="facts">{facts}</p>\n<div class="shots">{shots}</div>'
