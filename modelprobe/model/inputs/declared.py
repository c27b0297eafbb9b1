"""The input that a zoo architecture declares (torchvision's weights entry, timm's `default_cfg`), and what a short
`--input 224` means for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.model.inputs.spec import InputSpec
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
NAMED = "named"

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
    `pair` (two images), `none` (forward takes nothing), `given` (`values`: what the model itself offers) or `named`
    (`values`: keyword arguments as its library declares them, several sets of them, the likeliest first).
    `shape` has a batch of 1 at `batch_dim`, except for `images`, where it is that of one image.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    source: str = ""
    batch_dim: int = 0
    notes: tuple[Note, ...] = ()
    values: Any = None
    optional: tuple[str, ...] = ()
    """Arguments that a forward which needs none can be given."""
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


def completed(spec: InputSpec, wanted: DeclaredInput | None) -> tuple[int, ...]:
    """The shape of `spec` with what it leaves out taken from what the model declares; named specs are exact.

    One number is a side, two are height and width; a missing batch is 1. For `images` it is the shape of one image,
    or with a leading number of images. Without a declaration three channels are taken.
    """
    shape = spec.shape
    if spec.name is not None:
        return shape
    if wanted is None or wanted.kind in (GIVEN, UNDECLARED):
        wanted = DeclaredInput(IMAGE, (1, 3, 0, 0))
        return shape if len(shape) > 2 else wanted.sized(shape[0], shape[-1]).shape
    if wanted.size is None:
        return _with_free(shape, wanted) if len(shape) == 1 else shape
    if len(shape) <= 2:
        return wanted.sized(shape[0], shape[-1]).shape
    if wanted.kind == VIDEO and len(shape) == 3:
        return (1, shape[0], wanted.shape[2], *shape[1:])
    if wanted.kind != IMAGES and len(shape) == len(wanted.shape) - 1:
        return (1, *shape)
    return shape


def is_short(spec: InputSpec) -> bool:
    """Whether the channels are left to the model."""
    return spec.name is None and len(spec.shape) <= 2


def _with_free(shape: tuple[int, ...], wanted: DeclaredInput) -> tuple[int, ...]:
    full = list(wanted.shape)
    full[wanted.free_dim] = shape[0]
    return tuple(full)


def batched(shape: tuple[int, ...], batch: int | None, dim: int = 0) -> tuple[int, ...]:
    """`shape` with its batch of 1 replaced. Raises BadInput when it says another number already."""
    if batch is None or shape[dim] == batch:
        return shape
    if shape[dim] != 1:
        text = "x".join(map(str, shape))
        raise BadInput(f"--batch {batch} contradicts --input {text}", "leave one of the two out")
    return (*shape[:dim], batch, *shape[dim + 1 :])
