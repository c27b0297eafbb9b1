"""What every answer has in common: it can be read as a report, in a notebook, and as plain values."""

from __future__ import annotations

from typing import Any

from modelprobe.report.blocks import Report, plain


class Result:
    """The base of the frozen dataclasses that analyzers return. It adds no field and no slot."""

    __slots__ = ()

    def report(self) -> Report:
        """The answer in blocks that every format can write."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The fields as dicts, lists and plain values: what JSON prints."""
        values: dict[str, Any] = plain(self)
        return values

    def _repr_html_(self) -> str:
        """How a notebook shows it. The one place below the renderers that looks up at them, hence the late import."""
        from modelprobe.report.formats.html import fragment

        return fragment(self.report())
