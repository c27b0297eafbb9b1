"""A report for programs that read line by line: each row of its first table as an object, with all that is known of it.

What a row cannot carry (facts, notes, the environment) is said on stderr or left to JSON.
"""

from __future__ import annotations

import json
from typing import Any

from modelprobe.report.blocks import Report, Table, plain
from modelprobe.report.formats import Style
from modelprobe.report.formats.json import finite_or_null


def render(report: Report, style: Style) -> str:
    """A line for each row; of a report without tables one line with its values."""
    rows = _whole_rows(report, report.rows) if report.rows is not None else [report.data]
    lines = (json.dumps(finite_or_null(plain(row)), ensure_ascii=True, allow_nan=False) for row in rows)
    return "".join(line.replace("\x7f", "\\u007f") + "\n" for line in lines)


def _whole_rows(report: Report, table: Table) -> list[Any]:
    """The result's own rows where the table shows them one for one, else the table's cells."""
    whole = report.data.get(table.key)
    if isinstance(whole, (list, tuple)) and len(whole) == len(table.rows) and all(isinstance(r, dict) for r in whole):
        return list(whole)
    keys = [column.key for column in table.columns]
    return [
        {**dict(zip(keys, row.cells, strict=True)), **({"path": row.path} if row.path is not None else {})}
        for row in table.rows
    ]
