"""A report for a spreadsheet: its first table, raw values under the columns' keys.

What a CSV cannot carry (notes, facts beside a table, the footer) is said on stderr or left to the other formats.
"""

from __future__ import annotations

import csv
import io

from modelprobe.report.blocks import Cell, Facts, Report, Table
from modelprobe.report.formats import Style
from modelprobe.report.units import Unit, printable, shape

FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet would take for the start of a formula."""


def render(report: Report, style: Style) -> str:
    """The first table; of a report without tables, its facts."""
    table = None if report.flat_csv else report.rows
    rows = _csv_facts(report) if table is None else _csv_table(table)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _csv_table(table: Table) -> list[list[str]]:
    keys = [column.key for column in table.columns]
    depth = table.tree and "depth" not in keys
    mark = any(row.mark for row in table.rows) and "mark" not in keys
    path = any(row.path is not None for row in table.rows) and "path" not in keys
    depths, marks, paths = (["depth"] if depth else []), (["mark"] if mark else []), (["path"] if path else [])
    rows = [[*depths, *map(_safe, keys), *marks, *paths]]
    for row in table.rows:
        cells = [csv_text(cell, column.unit) for cell, column in zip(row.cells, table.columns, strict=True)]
        behind = [*([_safe(row.mark)] if mark else []), *([_safe(row.path or "")] if path else [])]
        rows.append([*([str(row.depth)] if depth else []), *cells, *behind])
    return rows


def _csv_facts(report: Report) -> list[list[str]]:
    rows = [["fact", "value", "detail"]]
    for block in report.blocks:
        if isinstance(block, Facts):
            rows += [[_safe(fact.label), csv_text(fact.value, fact.unit), _safe(fact.detail)] for fact in block.items]
        if isinstance(block, Table):
            first, *others = block.columns
            for row in block.rows:
                name = csv_text(row.cells[0], first.unit)
                rows += [
                    [name, csv_text(cell, column.unit), _safe(column.key)]
                    for cell, column in zip(row.cells[1:], others, strict=True)
                    if cell not in (None, "")
                ]
    return rows


def csv_text(value: Cell, unit: Unit) -> str:
    """A cell as a program reads it back: integers without grouping, shapes as `1x3x224x224`, counts with spaces."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if unit is Unit.HISTOGRAM:
        return " ".join(map(str, value))
    return _safe(value if isinstance(value, str) else shape(value))


def _safe(text: str) -> str:
    """Text that neither a spreadsheet runs nor a terminal obeys."""
    return f"'{printable(text)}" if text.startswith(FORMULA) else printable(text)
