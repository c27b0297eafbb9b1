"""Baselines: the figures of models at an earlier time, as a JSON file that stands beside the code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelprobe.cost.budgets.check import FIGURES
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write

BASELINE_SCHEMA = "modelprobe.baseline/1"


def read_baseline(path: Path, target: str, inputs: Sequence[str]) -> dict[str, int]:
    """The figures of `target` in a baseline. Raises BadInput where it is of another model, input or schema."""
    models = _models_in(path)
    if target not in models:
        held = ", ".join(models) or "no model"
        raise BadInput(f"the baseline {path} is of {held}, not of {target}", "--update-baseline adds it")
    entry = models[target]
    if list(entry.get("inputs", ())) != list(inputs):
        before, now = "; ".join(map(str, entry.get("inputs", ()))), "; ".join(inputs)
        raise BadInput(f"the baseline {path} was made with the input {before}, not {now}", "give the same --input")
    figures = {name: value for name in FIGURES if type(value := entry.get(name)) is int and value >= 0}
    if FIGURES.keys() - figures.keys() - {"memory"}:
        raise BadInput(f"the baseline {path} lacks figures of {target}", "--update-baseline writes it anew")
    return figures


def write_baseline(path: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Write these models' figures; the others of an existing baseline stay."""
    held = _models_in(path) if path.exists() else {}
    content = {"schema": BASELINE_SCHEMA, "models": dict(sorted({**held, **models}.items()))}
    atomic_write(path, json.dumps(content, indent=1) + "\n", force=True)


def _models_in(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"there is no baseline {path}", "--update-baseline writes it") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"the baseline {path} cannot be read: {error}", "check the file, or write it anew") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != BASELINE_SCHEMA or not isinstance(content.get("models"), dict):
        raise BadInput(
            f"{path} is no baseline of this modelprobe (its schema: {schema})", f"expected {BASELINE_SCHEMA}"
        )
    models: dict[str, dict[str, Any]] = content["models"]
    return models
