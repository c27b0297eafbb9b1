"""What a report is made of: facts, tables (flat or tree), notes and figures. No torch, no rich.

An analyzer turns its frozen result into one `Report`; a renderer turns any `Report` into one format.
Cells are raw values. The unit of a column or a fact says how a renderer writes them, through `units`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from modelprobe.report.units import Unit

Cell: TypeAlias = "bool | int | float | str | tuple[Any, ...] | None"
"""A raw value: a number, a text, a shape (tuple of ints), or None where there is nothing to show."""


class Level(str, Enum):
    """How loudly a note is said. `--strict` turns every note above INFO into exit code 3."""

    INFO = "info"
    ASSUMED = "assumed"
    WARNING = "warning"


class Tone(str, Enum):
    """What a value means to who reads it, where a format has colours: the figure asked for, good news, or bad."""

    KEY = "key"
    GOOD = "good"
    BAD = "bad"

    @classmethod
    def of(cls, good: bool) -> Tone:
        """Good news or bad."""
        return cls.GOOD if good else cls.BAD


@dataclass(frozen=True)
class Fact:
    """One labelled value. `detail` is a short text in a quieter voice after it."""

    label: str
    value: Cell
    unit: Unit = Unit.TEXT
    detail: str = ""
    tone: Tone | None = None


@dataclass(frozen=True)
class Facts:
    """The head of a report: a few labelled values, in order."""

    items: tuple[Fact, ...]
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    `priority` decides which columns give way on a narrow terminal: the highest number goes first, 0 never goes.
    `bar` draws the cell (a share from 0 to 1) as a bar beside its number where the format can. `wrap` marks prose:
    where it does not fit it goes on below, instead of being cut in the middle as a name is.
    """

    key: str
    title: str
    unit: Unit = Unit.TEXT
    priority: int = 0
    bar: bool = False
    wrap: bool = False


@dataclass(frozen=True)
class Row:
    """One row; `cells` in the order of the table's columns. `depth` places it in a tree (0 is a root).

    `mark` is a short tag for the reader (`x12`, `reused`, `never ran`); `quiet` rows are drawn dim. `path` is the full
    path of the module that the row is of, for programs; None for what is no module.
    """

    cells: tuple[Cell, ...]
    depth: int = 0
    mark: str = ""
    quiet: bool = False
    path: str | None = None
    tone: Tone | None = None


@dataclass(frozen=True)
class Table:
    """Rows under columns. With `tree`, rows stand in pre-order and the first column carries the tree."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    tree: bool = False
    footer: tuple[Cell, ...] | None = None
    key: str = "rows"

    def __post_init__(self) -> None:
        for row in (*self.rows, *([] if self.footer is None else [Row(self.footer)])):
            if len(row.cells) != len(self.columns):
                raise ValueError(f"a row of {len(row.cells)} cells under {len(self.columns)} columns")


@dataclass(frozen=True)
class Note:
    """Something the reader must know: what was assumed, defaulted, left out, or is missing."""

    text: str
    level: Level = Level.INFO


Pixel: TypeAlias = "tuple[int, int, int]"
Pixels: TypeAlias = "tuple[tuple[Pixel, ...], ...]"
"""Rows of colours: red, green, blue from 0 to 255."""


@dataclass(frozen=True)
class Figure:
    """A picture on disk. HTML embeds it; the other formats carry the path.

    `preview` is a small version that a terminal shows, at most some thirty pixels wide. Without a `path` there is
    nothing but that.
    """

    path: Path | None
    caption: str = ""
    preview: Pixels = ()


ZOOS = ("torchvision", "timm")
"""Libraries that have some names in common."""


def with_zoo(name: str, env: Mapping[str, Any]) -> str:
    """`resnet50 (torchvision)`; the name alone of a model that is of no zoo."""
    return f"{name} ({env['origin']})" if env.get("origin") in ZOOS else name


Block: TypeAlias = "Facts | Table | Note | Figure"


@dataclass(frozen=True)
class Report:
    """A whole answer. `data` holds the plain values that JSON prints; CSV prints the first table.

    `data_table` is printed in its place where what people read is shorter, or has no table. With `flat_csv` CSV prints
    every fact and every row of every table instead, one in a line.
    """

    title: str
    schema: str
    blocks: tuple[Block, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, Any] = field(default_factory=dict)
    flat_csv: bool = False
    data_table: Table | None = None

    @property
    def heading(self) -> str:
        """The title as people read it: a name of a zoo with the zoo, since another may have that name too."""
        name = str(self.env.get("model", ""))
        known = name and self.title.startswith(f"{name}:")
        return with_zoo(name, self.env) + self.title[len(name) :] if known else self.title

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes, in order."""
        return tuple(block for block in self.blocks if isinstance(block, Note))

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables, in order."""
        return tuple(block for block in self.blocks if isinstance(block, Table))

    @property
    def rows(self) -> Table | None:
        """The table that programs are given; None where there is none."""
        return self.data_table or next(iter(self.tables), None)


def fitting_depth(depths: Iterable[int], limit: int = 40) -> int:
    """The greatest depth of a tree at which at most `limit` rows show; at least 1."""
    counts: dict[int, int] = {}
    for depth in depths:
        counts[depth] = counts.get(depth, 0) + 1
    total, best = 0, 0
    for depth in sorted(counts):
        total += counts[depth]
        if total > limit and depth > 1:
            break
        best = depth
    return max(best, 1)


def for_a_screen(report: Report) -> Report:
    """The report with trees of modules only as deep as about forty rows go, and a note that says so."""
    blocks: list[Block] = []
    for block in report.blocks:
        depth = fitting_depth([row.depth for row in block.rows]) if isinstance(block, Table) and block.tree else None
        shown = [row for row in block.rows if row.depth <= depth] if isinstance(block, Table) and depth else []
        if not isinstance(block, Table) or depth is None or len(shown) == len(block.rows):
            blocks.append(block)
            continue
        blocks.append(dataclasses.replace(block, rows=tuple(shown)))
        left = len(block.rows) - len(shown)
        blocks.append(
            Note(f"{left} more rows below depth {depth} are not shown; the result and to_dataframe() hold them.")
        )
    return dataclasses.replace(report, blocks=tuple(blocks))


def plain(value: Any) -> Any:
    """A frozen result as dicts, lists and plain values, ready for JSON. Raises TypeError for anything else."""
    kind = type(value)
    if value is None or kind in (int, str, float, bool):
        return value
    if kind in (tuple, list):
        return [plain(item) for item in value]
    if isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    raise TypeError(f"a result may hold plain values only, not {type(value).__name__}")
