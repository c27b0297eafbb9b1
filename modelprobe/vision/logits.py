"""The scores of a classifier, whatever its output wraps them in; a refusal for a model that gives none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from modelprobe.errors import BadInput

SCORES = "logits"
"""The field that wins where an output has several: what libraries of transformers call the scores."""


def logits_of(out: Any, model: nn.Module) -> Tensor:
    """The scores [B, classes] that `model` put out. Raises BadInput when it is no classifier."""
    found = _leaf_outputs(out)
    headless = getattr(model, "num_classes", None) == 0
    if found is None or found.dim() != 2 or not found.is_floating_point() or headless or found.shape[1] < 1:
        raise BadInput(
            f"{type(model).__name__} is no classifier: it puts out {_described(out, headless)}",
            "a map needs the scores of classes, [batch, classes]; `features` shows layers of any model",
        )
    return found


def _leaf_outputs(out: Any) -> Tensor | None:
    if isinstance(out, Tensor):
        return out
    if dataclasses.is_dataclass(out) and not isinstance(out, type):
        out = {field.name: getattr(out, field.name) for field in dataclasses.fields(out)}
    if isinstance(out, Mapping):
        return _leaf_outputs(out[SCORES]) if SCORES in out else _leaf_outputs(list(out.values())[:1])
    if isinstance(out, (tuple, list)) and out:
        return _leaf_outputs(getattr(out, SCORES, out[0]))
    return None


def _described(out: Any, headless: bool) -> str:
    if isinstance(out, Tensor):
        shape = "x".join(map(str, out.shape)) or "a single number"
        return f"features, {shape} (num_classes is 0)" if headless else shape
    if isinstance(out, Mapping):
        return f"a dict of {', '.join(map(str, list(out)[:5])) or 'nothing'}"
    if isinstance(out, (tuple, list)):
        inner = _described(out[0], False) if out else "nothing"
        return f"a {type(out).__name__} of {len(out)}, first {inner}"
    return type(out).__name__
