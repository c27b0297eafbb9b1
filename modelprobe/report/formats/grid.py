"""A table in a terminal: its columns fitted to the width, its tree, its bars."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
from modelprobe.report.formats.lines import TONES, broken_lines, clean, dots_of, glued, pad, shorten, wrap
from modelprobe.report.formats.names import fitted_names
from modelprobe.report.units import NUMERIC, Unit, heading, text


def table_lines(table: Table, style: Style) -> Iterator[Text]:
    if table.title:
        yield from wrap(table.title, style, "bold")
    if not table.rows:
        yield Text("(no rows)", style="dim")
        return
    grid = _Grid(table, style)
    fitted = grid.fitted()
    if fitted is None:
        yield from grid.records()
        return
    yield from grid.lines(fitted)
    for i, start in fitted.starts.items():
        yield from wrap(f"(the first {dots_of(style)} in {grid.titles[i]} stands for {start})", style, "dim")
    hidden = [grid.titles[i] for i in range(len(grid.titles)) if i not in fitted.layout.shown]
    if hidden:
        how = "a wider terminal shows them, or -f csv, html or json"
        yield from wrap(f"({len(hidden)} hidden: {', '.join(hidden)}; {how})", style, "dim")


@dataclass
class _FittedTable:
    """Which columns are shown, and their texts cut to them, by column; numbers and prose are as they are.

    `starts` are what is left out at the beginning of a column's texts. In `wrapped` rows nothing is cut.
    """

    layout: ColumnLayout
    texts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    starts: dict[int, str] = field(default_factory=dict)
    wrapped: Collection[int] = ()


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

    def fitted(self) -> _FittedTable | None:
        """The table in its width, rows that differ told apart: a column more gives way for that, else a row takes more
        lines. None where not even the columns that must stay fit."""
        wants = self.wants()
        layout = fit_columns(wants, self.style.width)
        if layout is None:
            return None
        first = found = self._cut_to(layout)
        while self._alike(found):
            layout = fit_columns(wants, self.style.width, len(layout.shown) - 1)
            if layout is None:
                first.wrapped = self._alike(first)
                return first
            found = self._cut_to(layout)
        return found

    def _cut_to(self, layout: ColumnLayout) -> _FittedTable:
        found, dots, count = _FittedTable(layout), dots_of(self.style), len(self.table.rows)
        for i, width in zip(layout.shown, layout.widths, strict=True):
            column = self.table.columns[i]
            if column.unit in NUMERIC or column.unit is Unit.HISTOGRAM or (i > 0 and column.wrap):
                continue
            names, rooms = self.cells[i][:count], [width] * count
            if i == 0:
                parts = [self._name_parts(row, width) for row in range(count)]
                names, rooms = [part.name for part in parts], [part.room for part in parts]
            leading = column.unit is Unit.TEXT and not (self.table.tree and i == 0)
            found.texts[i], start = fitted_names(names, rooms, dots, leading)
            if start:
                found.starts[i] = start
        return found

    def _alike(self, fitted: _FittedTable) -> set[int]:
        """The rows that are written as another one is whose names differ; in a tree, another one of its parent."""
        written: dict[tuple[object, ...], dict[tuple[str, ...], list[int]]] = {}
        above: list[int] = []
        for row, drawn in enumerate(self.table.rows):
            del above[drawn.depth if self.table.tree else 0 :]
            whole = tuple(self.cells[i][row] for i in fitted.texts)
            place = (self.cells[0][row] if 0 not in fitted.texts else "", *above[-1:])
            shown = (place, *(texts[row] for texts in fitted.texts.values()))
            written.setdefault(shown, {}).setdefault(whole, []).append(row)
            above.append(row)
        return {row for same in written.values() if len(same) > 1 for rows in same.values() for row in rows}

    def lines(self, fitted: _FittedTable) -> Iterator[Text]:
        """Header, rule, rows, and the footer under a rule of its own."""
        layout = fitted.layout
        total = sum(layout.widths) + COLUMN_GAP * (len(layout.widths) - 1)
        total += sum(layout.bar + 1 for i in layout.shown if layout.bar and self.table.columns[i].bar)
        rule = Text(("─" if self.style.unicode else "-") * total, style="dim")
        yield self._header(layout)
        yield rule
        for row in range(len(self.rows)):
            if row == len(self.table.rows):
                yield rule.copy()
            yield from self._row(row, fitted)

    def _header(self, layout: ColumnLayout) -> Text:
        parts = []
        for i, width in zip(layout.shown, layout.widths, strict=True):
            column = self.table.columns[i]
            title = Text(shorten(self.titles[i], width, dots_of(self.style)), style="bold")
            parts.append(pad(title, width, right=column.unit in NUMERIC and i > 0))
            if column.bar and layout.bar:
                parts[-1].append(" " * (layout.bar + 1))
        return Text(" " * COLUMN_GAP).join(parts)

    def _row(self, row: int, fitted: _FittedTable) -> Iterator[Text]:
        """The row's line, and below it what prose did not fit."""
        columns, layout = self.table.columns, fitted.layout
        whole = row in fitted.wrapped
        parts: dict[int, list[str]] = {}
        for i, width in zip(layout.shown, layout.widths, strict=True):
            if i == 0 and whole:
                name = self._name_parts(row, width)
                parts[0] = broken_lines(name.name, replace(self.style, width=name.room), 0, 0)
            elif i > 0 and (columns[i].wrap or (whole and i in fitted.texts)):
                parts[i] = broken_lines(self.cells[i][row], replace(self.style, width=width), 0, 0)
        for line in range(max((len(lines) for lines in parts.values()), default=1)):
            yield self._line(row, fitted, line, {i: lines[line : line + 1] for i, lines in parts.items()})

    def _line(self, row: int, fitted: _FittedTable, line_number: int, prose: dict[int, list[str]]) -> Text:
        parts, layout = [], fitted.layout
        for i, width in zip(layout.shown, layout.widths, strict=True):
            column = self.table.columns[i]
            if i == 0:
                parts.append(pad(self._name(row, width, fitted, line_number, prose.get(0)), width))
                continue
            if i in prose or line_number:
                parts.append(pad(Text("".join(prose.get(i, []))), width))
                continue
            cut = fitted.texts.get(i, ())
            cell = Text(cut[row] if row < len(cut) else shorten(self.cells[i][row], width, dots_of(self.style)))
            parts.append(pad(cell, width, right=column.unit in NUMERIC))
            if column.bar and layout.bar:
                parts[-1].append(" ").append_text(_bar_text(self.rows[row].cells[i], layout.bar, self.style))
        line = Text(" " * COLUMN_GAP).join(parts)
        if self.rows[row].quiet:
            line.stylize("dim")
        elif self.rows[row].tone is not None:
            line.stylize(TONES[self.rows[row].tone])
        if row >= len(self.table.rows):
            line.stylize("bold")
        return line

    def _name(
        self, row: int, width: int, fitted: _FittedTable, line_number: int = 0, prose: list[str] | None = None
    ) -> Text:
        """Guides, name and mark in `width` cells: the name gives way first, then the guides, then the mark."""
        part = self._name_parts(row, width)
        if line_number:
            return Text.assemble((_continued(part.guide), "dim") if prose else "", "".join(prose or []))
        cut = fitted.texts.get(0, ())
        shown = cut[row] if row < len(cut) else shorten(part.name, part.room, dots_of(self.style))
        return Text.assemble((part.guide, "dim"), shown if prose is None else "".join(prose), (part.tag, "dim"))

    def _name_parts(self, row: int, width: int) -> _NameParts:
        guide, name, mark = self.guides[row], self.cells[0][row], self.marks[row]
        if self._name_width(row) > width and len(guide) > width // 2:
            guide = f"{'…' if self.style.unicode else '.'}{guide[len(guide) - width // 2 + 1 :]}"
        tag = f" {mark}" if mark and cell_len(mark) + 5 <= width - len(guide) else ""
        if mark and not tag:
            name = f"{name} {mark}"
        return _NameParts(guide, name, tag, width - len(guide) - cell_len(tag))

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


class _NameParts(NamedTuple):
    """What the first column of a row is made of: the tree's strokes, the name, its mark, and the cells of the name."""

    guide: str
    name: str
    tag: str
    room: int


def _continued(guide: str) -> str:
    """The strokes of a tree beside a further line of the same row."""
    return guide.replace("├─", "│ ").replace("└─", "  ").replace("|-", "| ").replace("`-", "  ")


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
