"""open_clip: an image and a text, both of which `forward` can do without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.model.inputs.spec import InputSpec


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """One image of the tower's size and one text of the context's length."""
    some: Any = model
    size = getattr(some.visual, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    length: Any = getattr(some, "context_length", None) or getattr(getattr(some, "text", None), "context_length", 77)
    yield {"image": InputSpec(None, (1, 3, height, width)), "text": InputSpec(None, (1, int(length)), "int64")}
