"""The base of every result: it can be read as a report, in a notebook, and as plain values."""

from __future__ import annotations

from typing import Any

from modelprobe.report.blocks import Block, Report, plain


class Result:
    """The base of the frozen dataclasses that analyzers return. It adds no field and no slot."""

    __slots__ = ()

    def report(self) -> Report:
        """The answer in blocks that every format can write."""
        raise NotImplementedError

    def blocks_report(self, title: str, schema: str, *blocks: Block) -> Report:
        """The report of these blocks, with the result's own values and its `env`."""
        return Report(title, schema, blocks, self.to_dict(), getattr(self, "env", {}))

    def to_dict(self) -> dict[str, Any]:
        """The fields as dicts, lists and plain values: what JSON prints."""
        values: dict[str, Any] = plain(self)
        return values

    def _repr_html_(self) -> str:
        """How a notebook shows it; imported late, as no other part of a result needs a format."""
        from modelprobe.report.formats.html import fragment

        return fragment(self.report())
