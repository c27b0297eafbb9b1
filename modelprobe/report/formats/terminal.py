"""A report for a person at a terminal. The only user of rich, with what it draws by: `grid`, `lines` and `names`.

Every line is a rich `Text` built from parts: foreign text is never parsed as markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from modelprobe.report.blocks import Facts, Figure, Level, Note, Pixel, Pixels, Report
from modelprobe.report.formats import Style
from modelprobe.report.formats.columns import COLUMN_GAP
from modelprobe.report.formats.grid import table_lines
from modelprobe.report.formats.lines import TONES, clean, dots_of, glued, pad, shorten, wrap
from modelprobe.report.units import labelled

NOTES = {Level.INFO: ("note", "blue"), Level.ASSUMED: ("assumed", "yellow"), Level.WARNING: ("warning", "bold red")}


def render(report: Report, style: Style) -> str:
    """The title, the blocks in order, the notes last. No line is wider than `style.width` or ends in a space."""
    lines = [*wrap(report.heading, style, "bold")]
    for pictures, group in groupby(report.blocks, lambda block: isinstance(block, Figure)):
        if pictures:
            lines += [Text(), *_figure_lines([block for block in group if isinstance(block, Figure)], style)]
            continue
        for block in group:
            if not isinstance(block, (Note, Figure)):
                drawn = _facts_lines(block, style) if isinstance(block, Facts) else table_lines(block, style)
                lines += [Text(), *drawn]
    if report.notes:
        lines.append(Text())
    for note in report.notes:
        lines += _note_lines(note, style)
    for line in lines:
        line.rstrip()
    if not style.colour:
        return "".join(f"{line.plain}\n" for line in lines)
    return _coloured(lines, style.width)


def _coloured(lines: Sequence[Text], width: int) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        force_jupyter=False,
        color_system="256",  # named colours follow the person's own theme; previews need more of them
        legacy_windows=False,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        no_color=False,
    )
    for line in lines:
        console.print(line, soft_wrap=True)
    return out.getvalue()


HALF_BLOCK = "▀"
SHADES, PLAIN_SHADES = " ░▒▓█", " .:-=+*#%@"


class PreviewCell(NamedTuple):
    """One character, with the colours of its upper and its lower half; None leaves the terminal's own."""

    character: str
    upper: Pixel | None = None
    lower: Pixel | None = None


def preview_cells(pixels: Pixels, colour: bool, unicode: bool) -> list[list[PreviewCell]]:
    """Lines of cells for rows of pixels, two rows to a line."""
    lines = []
    for top in range(0, len(pixels), 2):
        upper = pixels[top]
        lower: Sequence[Pixel | None] = pixels[top + 1] if top + 1 < len(pixels) else [None] * len(upper)
        if colour and unicode:
            lines.append([PreviewCell(HALF_BLOCK, one, other) for one, other in zip(upper, lower, strict=True)])
        else:
            shades = SHADES if unicode else PLAIN_SHADES
            lines.append([PreviewCell(_shade(one, other, shades)) for one, other in zip(upper, lower, strict=True)])
    return lines


def _shade(upper: Pixel, lower: Pixel | None, shades: str) -> str:
    light = [_brightness(pixel) for pixel in (upper, lower) if pixel is not None]
    return shades[min(len(shades) - 1, int(sum(light) / len(light) * len(shades)))]


def _brightness(pixel: Pixel) -> float:
    """From 0 to 1, as Pillow makes grey of a colour."""
    red, green, blue = pixel
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _figure_lines(figures: Sequence[Figure], style: Style) -> Iterator[Text]:
    """Small previews side by side, as many as fit, then the paths."""
    small = [figure for figure in figures if figure.preview]
    widths = [max(12, len(figure.preview[0])) for figure in small]
    while small:
        count = 1
        while count < len(small) and sum(widths[: count + 1]) + COLUMN_GAP * count <= style.width:
            count += 1
        yield from _preview_row(small[:count], widths[:count], style)
        small, widths = small[count:], widths[count:]
    for figure in figures:
        if figure.path is not None:
            yield from wrap(f"{figure.caption}: {figure.path}" if figure.caption else str(figure.path), style)


def _preview_row(figures: Sequence[Figure], widths: Sequence[int], style: Style) -> Iterator[Text]:
    names = [figure.caption.partition(": ")[0] for figure in figures]
    titles = [
        Text(shorten(clean(name, style), w, dots_of(style)), "dim") for name, w in zip(names, widths, strict=True)
    ]
    yield Text(" " * COLUMN_GAP).join(pad(title, width) for title, width in zip(titles, widths, strict=True))
    drawn = [preview_cells(figure.preview, style.colour, style.unicode) for figure in figures]
    for line in range(max(map(len, drawn))):
        parts = [
            _preview_line(rows[line] if line < len(rows) else [], w) for rows, w in zip(drawn, widths, strict=True)
        ]
        yield Text(" " * COLUMN_GAP).join(parts)
    yield Text()


def _preview_line(row: Sequence[PreviewCell], width: int) -> Text:
    line = Text()
    for cell in row:
        upper = f"rgb({','.join(map(str, cell.upper))})" if cell.upper else ""
        line.append(cell.character, f"{upper} on rgb({','.join(map(str, cell.lower))})" if cell.lower else upper)
    return pad(line, width)


def _note_lines(note: Note, style: Style) -> Iterator[Text]:
    label, look = NOTES[note.level]
    yield from wrap(note.text, style, lead=Text(f"{label}: ", style=look))


def _facts_lines(facts: Facts, style: Style) -> Iterator[Text]:
    if facts.title:
        yield from wrap(facts.title, style, "bold")
    labels = [clean(fact.label, style) for fact in facts.items]
    wide = max(map(cell_len, labels), default=0) + COLUMN_GAP
    narrow = wide > style.width // 3  # then each label has a line of its own, and the value one below it
    for label, fact in zip(labels, facts.items, strict=True):
        if narrow:
            yield from wrap(label, style, "dim")
        lead = Text("  ") if narrow else pad(Text(label, style="dim"), wide)
        lines = list(
            wrap(glued(labelled(fact.value, fact.unit), fact.unit), style, TONES[fact.tone] if fact.tone else "", lead)
        )
        detail = Text(clean(fact.detail, style), style="dim")
        if fact.detail and lines[-1].cell_len + COLUMN_GAP + detail.cell_len <= style.width:
            lines[-1] = Text.assemble(lines[-1], " " * COLUMN_GAP, detail)
        elif fact.detail:
            lines += wrap(fact.detail, style, "dim", Text(" " * lead.cell_len))
        yield from lines
