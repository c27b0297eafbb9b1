"""JSON of a stranger: bounded before it is parsed; duplicate keys are refused."""

from __future__ import annotations

import json
from typing import Any

from modelprobe.errors import BadInput

MAX_CONTAINERS = 1_500_000


def parse_json(raw: bytes, name: str, what: str) -> Any:
    """The value of `raw`. Raises BadInput for anything malformed, nested too deep or too rich in containers."""
    broken = BadInput(f"{name} has a {what} that is not valid JSON", "the file is damaged: download it again")
    if raw.count(b"[") + raw.count(b"{") > MAX_CONTAINERS or raw.startswith(b"\xef\xbb\xbf"):
        raise broken
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except _DuplicateError as error:
        raise BadInput(f"{name} has a {what} that names {error} twice: it is ambiguous which one is meant") from None
    except (ValueError, RecursionError):  # not UTF-8, not JSON, an integer of thousands of digits, nested too deep
        raise broken from None


class _DuplicateError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateError(key)
            seen.add(key)
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(text)
