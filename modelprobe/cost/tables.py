"""What the reports of costs print alike: the table of rows with its marks, what was not counted, what is not shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from modelprobe.report.blocks import Cell, Column, Level, Note, Row, Table
from modelprobe.report.units import Unit, first_few, labelled
from modelprobe.tracing.records import Uncounted

ROW_TITLES = {
    "module": ("Module", "Class"),
    "operator": ("Operator", "Kind"),
    "kind": ("Kind", "Status"),
    "call": ("Call", "Class"),
}
"""What `--by` names -> the titles of the rows' names and details."""

TRAINING_GROUPINGS = ("module", "operator", "kind")
"""What `--by` names for a training step, whose backward pass has no module calls."""


def row_table(
    columns: Sequence[Column],
    rows: Iterable[Any],
    *,
    tree: bool,
    mark: Callable[[Any], str] = lambda row: "",
    quiet: Callable[[Any], bool] = lambda row: False,
    cell: Callable[[Any, str], Cell] = getattr,
    root: str = "",
    key: str = "rows",
) -> Table:
    """A table of rows that have a `name` (the root of a tree may lack one), a `depth` and the columns' keys."""
    keys = [column.key for column in columns[1:]]
    return Table(
        tuple(columns),
        tuple(
            Row(
                (row.name or root, *(cell(row, key) for key in keys)),
                depth=row.depth if tree else 0,
                mark=mark(row),
                quiet=quiet(row),
                path=getattr(row, "path", None),
            )
            for row in rows
        ),
        tree=tree,
        key=key,
    )


def row_mark(
    *, uncounted: int = 0, copies: str = "", same_as: str = "", calls: int = 0, shapes: int = 1, state: str = ""
) -> str:
    """The tag beside a row's name: `x12`, `is layer1`, `called x2`."""
    marks = [copies] if copies else []
    marks += [f"{uncounted} uncounted"] if uncounted else []
    marks += [f"is {same_as}"] if same_as else []
    marks += [f"called x{calls}" + (f" with {shapes} shapes" if shapes > 1 else "")] if calls > 1 else []
    return ", ".join([*marks, *([state] if state else [])])


def hidden_notes(hidden: int, depth: int | None, tree: bool) -> list[Note]:
    """How many rows are not shown, and the option that shows them."""
    if not hidden:
        return []
    where, option = (f" below depth {depth}", "--depth") if tree else ("", "--top")
    return [Note(f"{hidden} more rows{where} are not shown ({option}).", Level.INFO)]


def uncounted_table(uncounted: tuple[Uncounted, ...]) -> Table:
    """The operators without a formula, how often they ran and at most what they cost."""
    columns = (
        Column("operator", "Not counted"),
        Column("count", "Calls", Unit.COUNT),
        Column("bound", "At most MACs", Unit.MACS),
        Column("modules", "Where", priority=1, wrap=True),
    )
    rows = [Row((item.name, item.count, item.bound, module_names(item.modules, 3))) for item in uncounted]
    return Table(columns, tuple(rows), key="uncounted")


def uncounted_note(uncounted: tuple[Uncounted, ...]) -> list[Note]:
    """The warning that stands against a total with holes."""
    if not uncounted:
        return []
    bound, missing = sum(item.bound for item in uncounted), sum(item.count for item in uncounted)
    text = (
        f"{missing} operator calls have no formula and are not in the total; by their sizes they are at most "
        f"{labelled(bound, Unit.MACS)}. Give a formula with @modelprobe.formula."
    )
    return [Note(text, Level.WARNING)]


def module_names(paths: Sequence[str], limit: int) -> str:
    """The first of `paths`, and how many there are more."""
    return first_few([path or "(the model itself)" for path in paths], limit)


def plural(number: int, noun: str) -> str:
    """`1 module`, `2 modules`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
