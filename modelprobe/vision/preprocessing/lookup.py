"""The preprocessing of a model: torchvision's transform, timm's data config, its own record, or a stated default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import IMAGE, IMAGE_PAIR, IMAGES, NAMED, TENSOR, VIDEO, DeclaredInput
from modelprobe.model.sources import ZooSource
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TORCHVISION
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.preprocessing.overrides import UNKNOWN, PreprocessingOverrides, changed
from modelprobe.vision.preprocessing.transform import LONGER, NEVER, RESAMPLING, SHORTER, SQUASH, Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.target import Target

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in Pillow's gray (ITU-R 601-2 luma)."""


def preprocessing(
    target: Target,
    model: nn.Module,
    weights: Any = None,
    overrides: PreprocessingOverrides | None = None,
    given: DeclaredInput | None = None,
) -> Preprocessing:
    """The preprocessing of `target`, changed as `overrides` say.

    `weights` is torchvision's entry whose `transforms` apply; without it the DEFAULT one's. timm's comes from the
    `pretrained_cfg` that the model carries. A module of one's own may carry such a dict too, as `default_cfg` or
    `pretrained_cfg` (`input_size`, `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`); without one images are
    resized and cut to the size that its first layer suggests, values 0..1, which a note says. `given` is what an image
    looks like where the model does not tell. Raises BadInput when the model takes no images.
    """
    cfg, zoo = data_config(model), isinstance(target.source, ZooSource)
    wanted = _preprocessing_of_config(cfg) if cfg is not None and not zoo else target.declared_inputs(model)
    known = wanted is not None and wanted.kind in (IMAGE, IMAGES, VIDEO, IMAGE_PAIR)
    if given is not None and not known:
        wanted = given
    if wanted is not None and wanted.kind == NAMED:
        wanted = _one_image(wanted)
    if wanted is not None and wanted.kind == TENSOR and len(wanted.shape) == 3:
        return changed(_of_signals(wanted), overrides or PreprocessingOverrides())
    if wanted is None or wanted.kind not in (IMAGE, IMAGES, VIDEO, IMAGE_PAIR):
        raise _takes_none(target, wanted)
    if isinstance(target.source, ZooSource) and target.source.library == TORCHVISION:
        found = _of_torchvision(target.source, wanted, weights)
    elif cfg is not None:
        found = _of_timm(cfg, wanted, "timm's data config" if zoo else f"the data config of {target.name}")
    else:
        found = _assumed(wanted)
    return changed(_checked(found, target), overrides or PreprocessingOverrides())


def _one_image(wanted: DeclaredInput) -> DeclaredInput:
    """Of named arguments that are one image (`pixel_values`), that image; else the same."""
    for given in wanted.values if isinstance(wanted.values, (list, tuple)) else [wanted.values]:
        if isinstance(given, Mapping) and len(given) == 1:
            (value,) = given.values()
            shape = tuple(getattr(value, "shape", ()))
            if len(shape) == 4 and shape[1] < min(shape[2:]):
                return replace(wanted, kind=IMAGE, shape=shape, values=None)
    return wanted


def _takes_none(target: Target, wanted: DeclaredInput | None) -> BadInput:
    what = (
        f"its input is {'x'.join(map(str, wanted.shape))}" if wanted and wanted.shape else "nothing tells that it does"
    )
    return BadInput(
        f"{target.name} takes no images: {what}",
        "a module may say how it sees images: default_cfg = {'input_size': (3, 224, 224), 'mean': …, 'std': …}",
    )


def data_config(model: nn.Module) -> Mapping[str, Any] | None:
    """timm's record of how a model was trained, or a dict of the same keys on a module of one's own."""
    for name in ("pretrained_cfg", "default_cfg"):
        found = getattr(model, name, None)
        if isinstance(found, Mapping) and found.get("input_size") is not None:
            return found
    return None


def _preprocessing_of_config(cfg: Mapping[str, Any]) -> DeclaredInput:
    channels, height, width = cfg["input_size"]
    return DeclaredInput(IMAGE, (1, channels, height, width), source="its data config")


def _of_torchvision(source: ZooSource, wanted: DeclaredInput, weights: Any) -> Preprocessing:
    """A preset of torchvision: read from the transform of a weights entry, and sized as the model was built."""
    weights = weights if weights is not None else libraries.default_weights(source.name)
    said = f"the transform of {weights}" if weights is not None else "torchvision's usual transform"
    preset = weights.transforms() if weights is not None else None
    kind, frames = wanted.kind, wanted.shape[2] if wanted.kind == VIDEO else 1
    if wanted.kind in (IMAGES, IMAGE_PAIR):  # rescaled alone; a detector resizes and normalises within the model
        values = (0.5, 0.5) if wanted.kind == IMAGE_PAIR else (0.0, 1.0)
        size = (wanted.shape[-2], wanted.shape[-1]) if wanted.kind == IMAGE_PAIR else None
        fit = SQUASH if wanted.kind == IMAGE_PAIR else NEVER
        text = "The image was given twice, to a model that compares two."
        if kind == IMAGES:
            text = "The model itself resizes and pads: a map laid over the image may be off by the padding."
        notes = (Note(text, Level.INFO),)
        return Preprocessing(
            3, fit, size, None, "bilinear", (values[0],) * 3, (values[1],) * 3, said, kind, notes=notes
        )
    resize = _height_and_width(getattr(preset, "resize_size", None) or [256])
    crop = (
        _height_and_width(getattr(preset, "crop_size", None))
        if hasattr(preset, "crop_size") or preset is None
        else None
    )
    if preset is None:
        crop = (224, 224)
    mean, std = (tuple(getattr(preset, key, usual)) for key, usual in zip(("mean", "std"), IMAGENET, strict=True))
    mode = getattr(getattr(preset, "interpolation", None), "value", "bilinear")
    own = len(getattr(preset, "resize_size", None) or [0]) > 1  # the video presets name both sides
    found = Preprocessing(3, SQUASH if own else SHORTER, resize, crop, mode, mean, std, said, kind, frames)
    if kind == VIDEO:
        text = f"The model takes {frames} frames: the image was given {frames} times."
        found = replace(found, notes=(Note(text, Level.ASSUMED),))
    return _sized(found, wanted)


def _of_timm(cfg: Mapping[str, Any], wanted: DeclaredInput, owner: str) -> Preprocessing:
    """timm's evaluation transform, from the same record and by the same rules as its `resolve_data_config`."""
    channels, height, width = wanted.shape[-3:]
    percent = float(cfg.get("crop_pct") or 0.875)
    usual = IMAGENET if channels == 3 else ((0.5,), (0.5,))
    mean, std = (_per_channel(cfg.get(key) or usual[i], channels) for i, key in enumerate(("mean", "std")))
    resize = math.floor(height / percent), math.floor(width / percent)
    fit = {"squash": SQUASH, "border": LONGER}.get(cfg.get("crop_mode") or "center", SHORTER)
    mode = cfg.get("interpolation") or "bicubic"
    found = Preprocessing(channels, fit, resize, (height, width), mode, mean, std, owner)
    return replace(found, interpolation="bicubic" if mode == "random" else mode)


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    """One number for each channel. Of three numbers a model of one channel takes their gray."""
    numbers = tuple(float(value) for value in values) if isinstance(values, (tuple, list)) else (float(values),)
    if len(numbers) == channels:
        return numbers
    if len(numbers) == 3 and channels == 1:
        return (sum(share * value for share, value in zip(GREY, numbers, strict=True)),)
    return numbers[:1] * channels


def _assumed(wanted: DeclaredInput) -> Preprocessing:
    """The documented default: shorter side to the size, its center, values 0..1. Nothing is known of the training."""
    if wanted.kind == VIDEO:
        channels, frames, height, width = wanted.shape[1:]
    else:
        (channels, height, width), frames = wanted.shape[-3:], 1
    text = (
        f"{UNKNOWN}: what was done is told as Input. --resize, --mean and --std change it; "
        "a default_cfg on the module says it for good."
    )
    notes = (Note(text, Level.ASSUMED),)
    return Preprocessing(
        channels, SHORTER, (height, width), (height, width), "bilinear", (0.0,) * channels, (1.0,) * channels,
        wanted.source, wanted.kind, frames, notes,
    )  # fmt: skip


def _of_signals(wanted: DeclaredInput) -> Preprocessing:
    """Signals [C, L] are taken as they are."""
    _, channels, length = wanted.shape
    return Preprocessing(
        channels, NEVER, (1, length), None, "bilinear", (0.0,) * channels, (1.0,) * channels, wanted.source, TENSOR,
    )  # fmt: skip


def _sized(found: Preprocessing, wanted: DeclaredInput) -> Preprocessing:
    """For a model built for another size than the transform's: both of its sizes scaled alike."""
    size = wanted.size
    if size is None or found.crop is None or found.crop == size or found.resize is None:
        return found
    scale = size[0] / found.crop[0], size[1] / found.crop[1]
    resize = round(found.resize[0] * scale[0]), round(found.resize[1] * scale[1])
    return replace(found, resize=resize, crop=size, source=f"{found.source}, scaled to {wanted.source}")


def _checked(found: Preprocessing, target: Target) -> Preprocessing:
    if found.interpolation not in RESAMPLING:
        raise BadInput(f"interpolation {found.interpolation!r} is not known", f"known are {', '.join(RESAMPLING)}")
    return found


def _height_and_width(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    numbers = [int(number) for number in size]
    return numbers[0], numbers[-1]


__all__ = ["Preprocessing", "PreprocessingOverrides", "preprocessing"]
