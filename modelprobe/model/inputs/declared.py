"""What input does an architecture of a zoo declare: in torchvision's weights entry, in timm's `default_cfg`?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelprobe.model.sources import ZooSource
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TORCHVISION
from modelprobe.report.blocks import Note

TENSOR = "tensor"
IMAGE = "image"
IMAGES = "images"
VIDEO = "video"
IMAGE_PAIR = "pair"
UNDECLARED = "none"
GIVEN = "given"

# torchvision's published figures: one 512x512 image for detection (sent through the model's own transform), 16 frames
# for video, whatever the model's own least number of frames is.
_DETECTION = (3, 512, 512)
_FRAMES = 16
# The size that torchvision's optical flow example resizes to, a multiple of 8 as RAFT needs.
_OPTICAL_FLOW = (1, 3, 520, 960)


@dataclass(frozen=True, slots=True)
class DeclaredInput:
    """One example input as the model declares it.

    `kind` is `tensor`, `image` (NCHW), `images` (a list of CHW, as torchvision's detectors take), `video` (NCTHW),
    `pair` (two images), `none` (forward takes nothing) or `given` (`values`: what the model itself offers).
    `shape` has a batch of 1 at `batch_dim`, except for `images`, where it is that of one image.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    source: str = ""
    batch_dim: int = 0
    notes: tuple[Note, ...] = ()
    values: Any = None
    free_dim: int = -1
    """The dimension that a lone number sets, where the kind has no height and width."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, for the kinds that have them."""
        return (self.shape[-2], self.shape[-1]) if self.kind in (IMAGE, IMAGES, VIDEO, IMAGE_PAIR) else None

    def sized(self, height: int, width: int) -> DeclaredInput:
        """The same with another height and width."""
        return replace(self, shape=(*self.shape[:-2], height, width))


def of_zoo(source: ZooSource, given: Mapping[str, Any]) -> DeclaredInput:
    """The input that a zoo's architecture declares, after the constructor arguments that change it."""
    if source.library == TORCHVISION:
        return _torchvision_declares(source, given)
    return _timm_declares(source, given)


def _torchvision_declares(source: ZooSource, given: Mapping[str, Any]) -> DeclaredInput:
    weights = libraries.default_weights(source.name)
    if weights is None:
        return DeclaredInput(IMAGE, (1, 3, 224, 224), source="torchvision's usual size")
    transform = weights.transforms
    preset = getattr(transform, "func", transform).__name__
    keywords = getattr(transform, "keywords", {})
    height, width = _image_pair(keywords.get("crop_size", keywords.get("resize_size", 224)))
    if preset == "ObjectDetection":
        found = DeclaredInput(IMAGES, _DETECTION)
    elif preset == "OpticalFlow":
        found = DeclaredInput(IMAGE_PAIR, _OPTICAL_FLOW)
    elif preset == "VideoClassification":
        found = DeclaredInput(VIDEO, (1, 3, _FRAMES, height, width))
    else:
        found = DeclaredInput(IMAGE, (1, 3, height, width))
    found = replace(found, source=f"the transform of {weights}", notes=_native_notes(source, given, str(weights)))
    for key in ("image_size", "input_size"):
        if key in given:
            found = replace(found.sized(*_image_pair(given[key])), source=f"{key}={given[key]}")
    return found


def _native_notes(source: ZooSource, given: Mapping[str, Any], weights: str) -> tuple[Note, ...]:
    native = {key: value for key, value in source.native_size().items() if key not in given}
    return tuple(
        Note(f"{source.name} is built with {key}={value}, as for {weights}, its default")
        for key, value in native.items()
    )


def _timm_declares(source: ZooSource, given: Mapping[str, Any]) -> DeclaredInput:
    cfg = timm_cfg(source.name)
    channels, height, width = getattr(cfg, "input_size", None) or (3, 224, 224)
    found = DeclaredInput(IMAGE, (1, given.get("in_chans", channels), height, width), source="timm's default_cfg")
    if given.get("img_size") is not None:
        found = replace(found.sized(*_image_pair(given["img_size"])), source=f"img_size={given['img_size']}")
    return found


def timm_cfg(name: str) -> Any:
    """timm's `PretrainedCfg` of a name, with its tag or without, or None."""
    return libraries.timm().models.get_pretrained_cfg(name)


def _image_pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    numbers = [int(number) for number in size]
    return numbers[0], numbers[-1]
