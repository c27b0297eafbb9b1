"""The base of every result: it can be read as a report, in a notebook, and as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Facts, Report, for_a_screen, plain
from modelprobe.report.formats import Style
from modelprobe.report.units import labelled

if TYPE_CHECKING:
    from pandas import DataFrame


class _LateValues(Mapping[str, Any]):
    """A result's plain values, made when a format asks for them: the terminal's does not."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, Any]:
        return self._make()

    def __getitem__(self, key: str) -> Any:
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class Result:
    """The base of the frozen dataclasses that analyzers return. It adds no field and no slot."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        # Ahead of the one that `dataclass` writes, which shows every row.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """The title and the first figures, in one line."""
        report = self.report()
        facts = next((block.items for block in report.blocks if isinstance(block, Facts)), ())
        shown = [f"{fact.label} {labelled(fact.value, fact.unit)}" for fact in facts[:4] if fact.value is not None]
        return f"<{type(self).__name__} {report.title}: {', '.join(shown)}>"

    def __str__(self) -> str:
        """What the command prints in a terminal of 100 columns; a tree as deep as about forty rows go."""
        from modelprobe.report.formats.terminal import render

        return render(for_a_screen(self.report()), Style(100)).rstrip("\n")

    def to_dataframe(self) -> DataFrame:
        """The first table as a pandas DataFrame of raw values, or, without tables, the facts.

        Columns are the table's keys; a tree has `depth`, rows of modules have `path`. Raises BadInput without pandas.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise BadInput("to_dataframe needs pandas", "pip install pandas") from error
        report = self.report()
        table = report.rows
        if table is None:
            facts = [fact for block in report.blocks if isinstance(block, Facts) for fact in block.items]
            return DataFrame({"fact": [f.label for f in facts], "value": [f.value for f in facts]})
        columns = {column.key: [row.cells[at] for row in table.rows] for at, column in enumerate(table.columns)}
        if table.tree:
            columns["depth"] = [row.depth for row in table.rows]
        if any(row.path is not None for row in table.rows):
            columns["path"] = [row.path for row in table.rows]
        return DataFrame(columns)

    def report(self) -> Report:
        """The answer in blocks that every format can write."""
        raise NotImplementedError

    def blocks_report(self, title: str, schema: str, *blocks: Block) -> Report:
        """The report of these blocks, with the result's own values and its `env`."""
        return Report(title, schema, blocks, _LateValues(self.to_dict), getattr(self, "env", {}))

    def to_dict(self) -> dict[str, Any]:
        """The fields as dicts, lists and plain values: what JSON prints."""
        values: dict[str, Any] = plain(self)
        return values

    def _repr_html_(self) -> str:
        """How a notebook shows it; imported late, as no other part of a result needs a format."""
        from modelprobe.report.formats.html import fragment

        return fragment(for_a_screen(self.report()))
