"""timm's networks in a user's own file: the input of their `pretrained_cfg`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.model.inputs.spec import InputSpec


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """One image of the size that the configuration names."""
    some: Any = model
    config = getattr(some, "pretrained_cfg", None) or getattr(some, "default_cfg", None) or {}
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if size:
        yield {"x": InputSpec(None, (1, *size))}
