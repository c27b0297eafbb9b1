"""A report for a person at a terminal. The only user of rich.

Every line is a rich `Text` built from parts: foreign text is never parsed as markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from modelprobe.report.blocks import Facts, Figure, Level, Note, Pixel, Pixels, Report, Row, Table
from modelprobe.report.formats import Style
from modelprobe.report.formats.columns import (
    ASCII_GUIDES,
    COLUMN_GAP,
    LINE_GUIDES,
    ColumnLayout,
    ColumnNeeds,
    fit_columns,
    tree_prefixes,
)
from modelprobe.report.units import BAR_HEIGHTS, NUMERIC, Unit, heading, labelled, printable, text

TEXT_WIDTH = 100
"""Prose wider than this is hard to read, however wide the terminal."""

GLUE = "\u00a0"
"""A space that a paragraph is not broken at."""

NOTES = {Level.INFO: ("note", "blue"), Level.ASSUMED: ("assumed", "yellow"), Level.WARNING: ("warning", "bold red")}


def render(report: Report, style: Style) -> str:
    """The title, the blocks in order, the notes last. No line is wider than `style.width` or ends in a space."""
    lines = [*_wrap(report.title, style, "bold")]
    for pictures, group in groupby(report.blocks, lambda block: isinstance(block, Figure)):
        if pictures:
            lines += [Text(), *_figure_lines([block for block in group if isinstance(block, Figure)], style)]
            continue
        for block in group:
            if not isinstance(block, (Note, Figure)):
                drawn = _facts_lines(block, style) if isinstance(block, Facts) else _table_lines(block, style)
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
            yield from _wrap(f"{figure.caption}: {figure.path}" if figure.caption else str(figure.path), style)


def _preview_row(figures: Sequence[Figure], widths: Sequence[int], style: Style) -> Iterator[Text]:
    names = [figure.caption.partition(": ")[0] for figure in figures]
    titles = [Text(_shorten(_clean(name, style), w, style), "dim") for name, w in zip(names, widths, strict=True)]
    yield Text(" " * COLUMN_GAP).join(_pad(title, width) for title, width in zip(titles, widths, strict=True))
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
    return _pad(line, width)


def _wrap(foreign: str, style: Style, look: str = "", lead: Text | None = None) -> Iterator[Text]:
    """A paragraph with a hanging indent as wide as `lead`."""
    first = lead or Text()
    hang = first.cell_len if first.cell_len <= style.width // 3 else 2
    for number, words in enumerate(_lines(_clean(foreign, style), style, first.cell_len, hang)):
        line = Text(words, style=look)
        yield Text.assemble(first, line) if number == 0 else Text.assemble(" " * hang, line)


def _lines(prose: str, style: Style, first: int, hang: int) -> list[str]:
    """`prose` broken at spaces; a word longer than a line is broken where it must be."""
    width = min(style.width, TEXT_WIDTH)
    lines, room = [""], width - first
    for word in prose.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
            room = width - hang
        while cell_len(word) > room:
            piece = chop_cells(word, max(1, room))[0]
            lines[-1], word = piece, word[len(piece) :]
            lines.append("")
            room = width - hang
        lines[-1] = word
    return [line.replace(GLUE, " ").rstrip() for line in lines]


def _glued(shown: str, unit: Unit) -> str:
    """A number that no line break parts from its unit."""
    return shown.replace(" ", GLUE) if unit in NUMERIC else shown


_ASCII_FOR = str.maketrans({"µ": "u", "…": "...", **dict(zip(BAR_HEIGHTS, "_.:-=+*#", strict=True))})
"""For terminals that have ASCII alone."""


def _clean(foreign: str, style: Style) -> str:
    shown = printable(foreign)
    return shown if style.unicode else shown.translate(_ASCII_FOR)


def _shorten(name: str, width: int, style: Style) -> str:
    """`name` cut in the middle to `width` cells, the cut shown."""
    if cell_len(name) <= width:
        return name
    dots = "…" if style.unicode else "..."
    if width <= len(dots):
        return dots[: max(0, width)]
    head, tail = (width - len(dots) + 1) // 2, (width - len(dots)) // 2
    while head + tail:
        cut = f"{name[:head]}{dots}{name[-tail:] if tail else ''}"
        if cell_len(cut) <= width:
            return cut
        head, tail = (head - 1, tail) if head > tail else (head, tail - 1)  # wide characters take two cells
    return dots


def _pad(line: Text, width: int, right: bool = False) -> Text:
    blank = " " * max(0, width - line.cell_len)
    return Text.assemble(blank, line) if right else Text.assemble(line, blank)


def _note_lines(note: Note, style: Style) -> Iterator[Text]:
    label, look = NOTES[note.level]
    yield from _wrap(note.text, style, lead=Text(f"{label}: ", style=look))


def _facts_lines(facts: Facts, style: Style) -> Iterator[Text]:
    if facts.title:
        yield from _wrap(facts.title, style, "bold")
    labels = [_clean(fact.label, style) for fact in facts.items]
    wide = max(map(cell_len, labels), default=0) + COLUMN_GAP
    narrow = wide > style.width // 3  # then each label has a line of its own, and the value one below it
    for label, fact in zip(labels, facts.items, strict=True):
        if narrow:
            yield from _wrap(label, style, "dim")
        lead = Text("  ") if narrow else _pad(Text(label, style="dim"), wide)
        lines = list(_wrap(_glued(labelled(fact.value, fact.unit), fact.unit), style, lead=lead))
        detail = Text(_clean(fact.detail, style), style="dim")
        if fact.detail and lines[-1].cell_len + COLUMN_GAP + detail.cell_len <= style.width:
            lines[-1] = Text.assemble(lines[-1], " " * COLUMN_GAP, detail)
        elif fact.detail:
            lines += _wrap(fact.detail, style, "dim", Text(" " * lead.cell_len))
        yield from lines


def _table_lines(table: Table, style: Style) -> Iterator[Text]:
    if table.title:
        yield from _wrap(table.title, style, "bold")
    if not table.rows:
        yield Text("(no rows)", style="dim")
        return
    grid = _Grid(table, style)
    layout = fit_columns(grid.wants(), style.width)
    if layout is None:
        yield from grid.records()
        return
    yield from grid.lines(layout)
    hidden = [grid.titles[i] for i in range(len(grid.titles)) if i not in layout.shown]
    if hidden:
        how = "a wider terminal shows them, or -f csv, html or json"
        yield from _wrap(f"({len(hidden)} hidden: {', '.join(hidden)}; {how})", style, "dim")


class _Grid:
    """A table as cleaned, aligned texts, before anything is cut to a width."""

    def __init__(self, table: Table, style: Style) -> None:
        self.table, self.style = table, style
        self.rows = [*table.rows, *([Row(table.footer)] if table.footer is not None else ())]
        self.titles = [_clean(heading(column.title, column.unit), style) for column in table.columns]
        guides = LINE_GUIDES if style.unicode else ASCII_GUIDES
        depths = [row.depth if table.tree else 0 for row in self.rows]
        self.guides = tree_prefixes(depths, guides)
        self.marks = [_clean(row.mark, style) for row in self.rows]
        self.cells = [
            _align([_clean(text(row.cells[i], column.unit), style) for row in self.rows], column.unit)
            for i, column in enumerate(table.columns)
        ]

    def wants(self) -> list[ColumnNeeds]:
        """What each column asks for. Numbers and histograms are never cut; the first column and texts, to a point."""
        wants = []
        for i, column in enumerate(self.table.columns):
            natural = max(cell_len(self.titles[i]), *(cell_len(cell) for cell in self.cells[i]), 1)
            if i == 0:
                natural = max(natural, *(self._name_width(row) for row in range(len(self.rows))))
            whole = column.unit in NUMERIC or column.unit is Unit.HISTOGRAM
            least = natural if whole else min(natural, max(8, self.style.width // 6))
            if column.wrap:
                least = min(natural, max(12, self.style.width // 5))
            if i == 0 and column.unit not in NUMERIC:
                least = min(natural, max(8, self.style.width * 2 // 5))
            wants.append(ColumnNeeds(natural, least, column.priority, column.bar))
        return wants

    def _name_width(self, row: int) -> int:
        mark = self.marks[row]
        return len(self.guides[row]) + cell_len(self.cells[0][row]) + (1 + cell_len(mark) if mark else 0)

    def lines(self, layout: ColumnLayout) -> Iterator[Text]:
        """Header, rule, rows, and the footer under a rule of its own."""
        total = sum(layout.widths) + COLUMN_GAP * (len(layout.widths) - 1)
        total += sum(layout.bar + 1 for i in layout.shown if layout.bar and self.table.columns[i].bar)
        rule = Text(("─" if self.style.unicode else "-") * total, style="dim")
        yield self._header(layout)
        yield rule
        for row in range(len(self.rows)):
            if row == len(self.table.rows):
                yield rule.copy()
            yield from self._row(row, layout)

    def _header(self, layout: ColumnLayout) -> Text:
        parts = []
        for i, width in zip(layout.shown, layout.widths, strict=True):
            column = self.table.columns[i]
            title = Text(_shorten(self.titles[i], width, self.style), style="bold")
            parts.append(_pad(title, width, right=column.unit in NUMERIC and i > 0))
            if column.bar and layout.bar:
                parts[-1].append(" " * (layout.bar + 1))
        return Text(" " * COLUMN_GAP).join(parts)

    def _row(self, row: int, layout: ColumnLayout) -> Iterator[Text]:
        """The row's line, and below it what prose did not fit."""
        columns = self.table.columns
        prose = {i: w for i, w in zip(layout.shown, layout.widths, strict=True) if i > 0 and columns[i].wrap}
        parts = {i: _lines(self.cells[i][row], replace(self.style, width=w), 0, 0) for i, w in prose.items()}
        for line in range(max((len(lines) for lines in parts.values()), default=1)):
            yield self._line(row, layout, line, {i: lines[line : line + 1] for i, lines in parts.items()})

    def _line(self, row: int, layout: ColumnLayout, line_number: int, prose: dict[int, list[str]]) -> Text:
        parts = []
        for i, width in zip(layout.shown, layout.widths, strict=True):
            column = self.table.columns[i]
            if i in prose or line_number:
                parts.append(_pad(Text("".join(prose.get(i, []))), width))
                continue
            if i == 0:
                parts.append(_pad(self._name(row, width), width))
                continue
            cell = Text(_shorten(self.cells[i][row], width, self.style))
            parts.append(_pad(cell, width, right=column.unit in NUMERIC))
            if column.bar and layout.bar:
                parts[-1].append(" ").append_text(_bar_text(self.rows[row].cells[i], layout.bar, self.style))
        line = Text(" " * COLUMN_GAP).join(parts)
        if self.rows[row].quiet:
            line.stylize("dim")
        if row >= len(self.table.rows):
            line.stylize("bold")
        return line

    def _name(self, row: int, width: int) -> Text:
        """Guides, name and mark in `width` cells: the name gives way first, then the guides, then the mark."""
        guide, name, mark = self.guides[row], self.cells[0][row], self.marks[row]
        if self._name_width(row) > width and len(guide) > width // 2:
            guide = f"{'…' if self.style.unicode else '.'}{guide[len(guide) - width // 2 + 1 :]}"
        tag = f" {mark}" if mark and cell_len(mark) + 5 <= width - len(guide) else ""
        if mark and not tag:
            name = f"{name} {mark}"
        shown = _shorten(name, width - len(guide) - cell_len(tag), self.style)
        return Text.assemble((guide, "dim"), shown, (tag, "dim"))

    def records(self) -> Iterator[Text]:
        """Each row as a short list, for a width at which not even the columns that must stay fit."""
        for row in range(len(self.rows)):
            mark = f" {self.marks[row]}" if self.marks[row] else ""
            yield from _wrap(self.cells[0][row].strip() + mark, self.style, "bold")
            for i in range(1, len(self.titles)):
                unit = self.table.columns[i].unit
                cell = _glued(text(self.rows[row].cells[i], unit), unit)
                if cell:
                    yield from _wrap(f"{self.titles[i]}: {cell}", self.style, lead=Text("  "))


def _align(cells: list[str], unit: Unit) -> list[str]:
    """Numbers of one column padded so that their last digits and their units stand under each other."""
    if unit not in NUMERIC:
        return cells
    parts = [_number_and_suffix(cell) for cell in cells]
    number, suffix = (max((len(part[i]) for part in parts), default=0) for i in range(2))
    return [f"{a:>{number}}{b:<{suffix}}" if a + b else "" for a, b in parts]


def _number_and_suffix(cell: str) -> tuple[str, str]:
    number, _, suffix = cell.partition(" ")
    if number.endswith("%"):
        return number[:-1], "%"
    return number, f" {suffix}" if suffix else ""


_EIGHTHS = " ▏▎▍▌▋▊▉█"


def _bar_text(value: object, width: int, style: Style) -> Text:
    """A share as a bar of `width` cells. What is not nothing shows at least the thinnest stroke."""
    filled = min(1.0, max(0.0, value)) if isinstance(value, (int, float)) and value == value else 0.0
    if not style.unicode:
        drawn = "#" * (round(filled * width) or (1 if filled else 0))
    else:
        eighths = round(filled * width * 8) or (1 if filled else 0)
        drawn = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return Text(drawn.ljust(width), style="cyan")
