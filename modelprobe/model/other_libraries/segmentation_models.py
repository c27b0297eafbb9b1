"""segmentation-models-pytorch: an image whose sides 32 divides; encoders without their published weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.model.inputs.spec import InputSpec
from modelprobe.model.user_code.arguments import accepted


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """One image with the channels of the encoder."""
    encoder: Any = getattr(model, "encoder", model)
    yield {"x": InputSpec(None, (1, getattr(encoder, "_in_channels", 3), 224, 224))}


def make(factory: Any, given: Mapping[str, Any]) -> nn.Module:
    """The model with an encoder of random weights, unless others were asked for."""
    model: nn.Module = factory(**{"encoder_weights": None, **given})
    return model


def builds(factory: Any) -> bool:
    """Whether `make` is meant: the class would fetch weights by default."""
    return "encoder_weights" in accepted(factory)
