"""A report for programs: the plain values of the result, with what is needed to trust them."""

from __future__ import annotations

import json
import math
from typing import Any

from modelprobe.report.blocks import Report, plain
from modelprobe.report.formats import Style

RESERVED = ("schema", "title", "env", "notes")
"""Keys of the report itself. A result that has a field of such a name would hide it, so it may not."""


def render(report: Report, style: Style) -> str:
    """`schema` and `title`, the result's own fields in their order, then `env` and `notes`."""
    document: dict[str, Any] = {"schema": report.schema, "title": report.title}
    document.update({key: value for key, value in report.data.items() if key not in RESERVED})
    document["env"] = report.env or report.data.get("env", {})
    document["notes"] = [{"level": note.level.value, "text": note.text} for note in report.notes]
    text = json.dumps(finite_or_null(plain(document)), indent=2, ensure_ascii=True, allow_nan=False)
    return text.replace("\x7f", "\\u007f") + "\n"  # the one control character that ASCII JSON lets through


def finite_or_null(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite_or_null(item) for item in value]
    return value
