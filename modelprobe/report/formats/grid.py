"""A table in a terminal: its columns fitted to the width, its tree, its bars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.cells import cell_len
from rich.text import Text

from modelprobe.report.blocks import Row, Table
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
from modelprobe.report.formats.lines import broken_lines, clean, glued, pad, shorten, wrap
from modelprobe.report.units import NUMERIC, Unit, heading, text


def table_lines(table: Table, style: Style) -> Iterator[Text]:
    if table.title:
        yield from wrap(table.title, style, "bold")
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
        yield from wrap(f"({len(hidden)} hidden: {', '.join(hidden)}; {how})", style, "dim")


class _Grid:
    """A table as cleaned, aligned texts, before anything is cut to a width."""

    def __init__(self, table: Table, style: Style) -> None:
        self.table, self.style = table, style
        self.rows = [*table.rows, *([Row(table.footer)] if table.footer is not None else ())]
        self.titles = [clean(heading(column.title, column.unit), style) for column in table.columns]
        guides = LINE_GUIDES if style.unicode else ASCII_GUIDES
        depths = [row.depth if table.tree else 0 for row in self.rows]
        self.guides = tree_prefixes(depths, guides)
        self.marks = [clean(row.mark, style) for row in self.rows]
        self.cells = [
            _align([clean(text(row.cells[i], column.unit), style) for row in self.rows], column.unit)
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
            title = Text(shorten(self.titles[i], width, self.style), style="bold")
            parts.append(pad(title, width, right=column.unit in NUMERIC and i > 0))
            if column.bar and layout.bar:
                parts[-1].append(" " * (layout.bar + 1))
        return Text(" " * COLUMN_GAP).join(parts)

    def _row(self, row: int, layout: ColumnLayout) -> Iterator[Text]:
        """The row's line, and below it what prose did not fit."""
        columns = self.table.columns
        prose = {i: w for i, w in zip(layout.shown, layout.widths, strict=True) if i > 0 and columns[i].wrap}
        parts = {i: broken_lines(self.cells[i][row], replace(self.style, width=w), 0, 0) for i, w in prose.items()}
        for line in range(max((len(lines) for lines in parts.values()), default=1)):
            yield self._line(row, layout, line, {i: lines[line : line + 1] for i, lines in parts.items()})

    def _line(self, row: int, layout: ColumnLayout, line_number: int, prose: dict[int, list[str]]) -> Text:
        parts = []
        for i, width in zip(layout.shown, layout.widths, strict=True):
            column = self.table.columns[i]
            if i in prose or line_number:
                parts.append(pad(Text("".join(prose.get(i, []))), width))
                continue
            if i == 0:
                parts.append(pad(self._name(row, width), width))
                continue
            cell = Text(shorten(self.cells[i][row], width, self.style))
            parts.append(pad(cell, width, right=column.unit in NUMERIC))
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
        shown = shorten(name, width - len(guide) - cell_len(tag), self.style)
        return Text.assemble((guide, "dim"), shown, (tag, "dim"))

    def records(self) -> Iterator[Text]:
        """Each row as a short list, for a width at which not even the columns that must stay fit."""
        for row in range(len(self.rows)):
            mark = f" {self.marks[row]}" if self.marks[row] else ""
            yield from wrap(self.cells[0][row].strip() + mark, self.style, "bold")
            for i in range(1, len(self.titles)):
                unit = self.table.columns[i].unit
                cell = glued(text(self.rows[row].cells[i], unit), unit)
                if cell:
                    yield from wrap(f"{self.titles[i]}: {cell}", self.style, lead=Text("  "))


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
