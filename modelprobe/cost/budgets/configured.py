"""Checks that `pyproject.toml` lists under `[tool.modelprobe.check]`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.files.toml import read_toml

PROJECT_FILE = "pyproject.toml"
KEYS = (
    "target", "input", "batch", "set", "max-params", "max-gmacs", "max-gflops", "max-activations", "max-memory",
    "baseline", "tolerance",
)  # fmt: skip


@dataclass(frozen=True)
class ConfiguredCheck:
    """One check: the target, and options by name as the command line has them, with text for values."""

    target: str
    options: Mapping[str, Any]


def configured_checks(start: Path) -> tuple[ConfiguredCheck, ...]:
    """The checks of the nearest pyproject.toml at or above `start`. Raises BadInput when there are none."""
    for folder in (start, *start.parents):
        path = folder / PROJECT_FILE
        if path.is_file():
            return _checks_in(path)
    raise BadInput(f"there is no TARGET, and no {PROJECT_FILE} here", "name a model: modelprobe check resnet50")


def _checks_in(path: Path) -> tuple[ConfiguredCheck, ...]:
    found = read_toml(path).get("tool", {}).get("modelprobe", {}).get("check")
    entries = found if isinstance(found, list) else [found] if isinstance(found, dict) else []
    if not entries:
        raise BadInput(
            f"{path} has no [tool.modelprobe.check]",
            "add one with a target, or name a model: modelprobe check resnet50",
        )
    return tuple(_check(entry, path) for entry in entries)


def _check(entry: Any, path: Path) -> ConfiguredCheck:
    if not isinstance(entry, dict) or not isinstance(entry.get("target"), str):
        raise BadInput(f"a check of {path} names no target", 'each needs one: target = "net.py:Net"')
    for key in entry:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            raise BadInput(
                f"{path}: a check has no key {key!r}",
                f"did you mean {close[0]}?" if close else f"keys: {', '.join(KEYS)}",
            )
    options = {key: value for key, value in entry.items() if key != "target"}
    if "baseline" in options:
        options["baseline"] = str(path.parent / str(options["baseline"]))
    return ConfiguredCheck(entry["target"], options)
