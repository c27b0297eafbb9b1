"""Patterns such as `conv1,layer1.*`, and the parameters that they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from modelprobe.errors import BadInput
from modelprobe.tracing.records import parents


def split_patterns(texts: Iterable[str]) -> tuple[str, ...]:
    """Patterns from texts that may each hold several, separated by commas. Raises BadInput for a text without any."""
    found: list[str] = []
    for text in texts:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise BadInput(f"{text!r} holds no pattern", "name modules or parameters, such as 'conv1,layer1.*'")
        found += parts
    return tuple(dict.fromkeys(found))


def matching(paths: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
    """The `paths` that a pattern names: itself, a module above it, or either by wildcard (`*`, `?`, `[..]`).

    Raises BadInput for a pattern that names nothing, with the nearest names.
    """
    found: set[str] = set()
    for pattern in patterns:
        hit = {path for path in paths if _is_named_by(pattern, path)}
        if not hit:
            raise BadInput(
                f"the pattern {pattern!r} matches no module and no parameter", _nearest_names(pattern, paths)
            )
        found |= hit
    return frozenset(found)


def _is_named_by(pattern: str, path: str) -> bool:
    return any(fnmatchcase(place, pattern) for place in (path, *parents(path)) if place)


def _nearest_names(pattern: str, paths: Sequence[str]) -> str:
    known = sorted({place for path in paths for place in (path, *parents(path)) if place})
    close = get_close_matches(pattern.strip("*."), known, n=4, cutoff=0.5) or known[:4]
    return f"nearest: {', '.join(close)}" if close else "the model has no parameters"
