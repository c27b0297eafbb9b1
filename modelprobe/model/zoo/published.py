"""Costs that torchvision publishes with its weights (`weights.meta`), for the same model and input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelprobe.model.sources import ModelSource, ZooSource
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TORCHVISION

DIGITS = 3
"""Decimals of a published figure in billions."""

# Arguments that leave the architecture the one that was published.
_HARMLESS = frozenset({"image_size", "aux_logits", "aux_loss", "transform_input", "init_weights"})
# What published figures were measured on, where the weights' transform leaves the image as it is.
_IMAGE = (512, 512)
_VIDEO_FRAMES = 16
_DETECTION_FIGURES = "ObjectDetection"


@dataclass(frozen=True, slots=True)
class Published:
    """`macs` of the weights entries `entries`, in steps of a million; `parameters` of the model they belong to."""

    entries: tuple[str, ...]
    macs: int
    parameters: int
    of_data: bool = False
    """Whether it depends on what the image shows: detection."""


def published(source: ModelSource, given: Mapping[str, Any], shapes: Sequence[Sequence[int]]) -> tuple[Published, ...]:
    """torchvision's figures for one example of this size, none where it has published none.

    `shapes` are those of the tensors given to forward, a batch of one.
    """
    if not isinstance(source, ZooSource) or source.library != TORCHVISION or set(given) - _HARMLESS or not shapes:
        return ()
    found: dict[tuple[int, int, bool], list[str]] = {}
    for entry in _weights_entries(source.name):
        operations = entry.meta.get("_ops")
        if operations and _fits_input(entry, shapes[0]):
            key = (
                round(operations * 1000) * 10**6,
                int(entry.meta["num_params"]),
                _preset(entry) == _DETECTION_FIGURES,
            )
            found.setdefault(key, []).append(entry.name)
    return tuple(Published(tuple(names), *key) for key, names in found.items())


def _weights_entries(name: str) -> list[Any]:
    try:
        return list(libraries.torchvision_models().get_model_weights(name))
    except ValueError:
        return []


def _preset(entry: Any) -> str:
    name: str = getattr(entry.transforms, "func", entry.transforms).__name__
    return name


def _fits_input(entry: Any, shape: Sequence[int]) -> bool:
    """Whether an input is one image, video or pair of the size that the entry's figure was measured on."""
    preset = _preset(entry)
    keywords = getattr(entry.transforms, "keywords", {})
    if preset == _DETECTION_FIGURES:
        return tuple(shape) == (3, *_IMAGE)
    size = keywords.get("crop_size", keywords.get("resize_size", _IMAGE))
    if preset == "OpticalFlow":
        size = _IMAGE
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    frames = (_VIDEO_FRAMES,) if preset == "VideoClassification" else ()
    return tuple(shape) == (1, 3, *frames, height, width)
