"""stable-baselines3: an observation, of the space that a policy or extractor was built for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.model.inputs.spec import InputSpec


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """One observation, by the name that `forward` has for it."""
    some: Any = model
    space = some.observation_space
    spaces = getattr(space, "spaces", None)
    value: Any = (
        {name: InputSpec(None, (1, *part.shape), "float32") for name, part in spaces.items()}
        if isinstance(spaces, Mapping)
        else InputSpec(None, (1, *space.shape), "float32")
    )
    for name in ("obs", "observations", "features"):
        yield {name: value}
