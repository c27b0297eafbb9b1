"""Passing the image size on to a constructor that has to know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelprobe.model.inputs import declared
from modelprobe.model.inputs.declared import completed
from modelprobe.model.inputs.spec import InputSpec, parse_input
from modelprobe.model.sources import ZooSource
from modelprobe.model.target import Target
from modelprobe.model.user_code import arguments
from modelprobe.model.zoo.names import TIMM
from modelprobe.report.blocks import Note

_OF_USERS = ("image_size", "img_size")


def resize(target: Target, specs: Sequence[str | InputSpec]) -> Target:
    """The target whose constructor is told the size that `--input` asks for, with a note; or the same target.

    Told are torchvision's `image_size=` (one number) and `input_size=`, timm's `img_size=` where the architecture
    says that its size is fixed, and `image_size=` or `img_size=` of a user's own constructor.
    """
    parsed = [parse_input(spec) if isinstance(spec, str) else spec for spec in specs]
    first = next((spec for spec in parsed if spec.name is None), None)
    if first is None or target.is_instance:
        return target
    if isinstance(target.source, ZooSource):
        told = _of_zoo(target, target.source, first)
    else:
        told = _of_user(target, first)
    if not told:
        return target
    text = ", ".join(f"{key}={_size_text(value)}" for key, value in told.items())
    return target.with_given(told, Note(f"{target.name} is built with {text}, for the size of the input"))


def _of_zoo(target: Target, source: ZooSource, spec: InputSpec) -> dict[str, Any]:
    wanted = declared.of_zoo(source, target.given)
    shape = completed(spec, wanted)
    if wanted.size is None or len(shape) < 3 or shape[-2:] == wanted.size:
        return {}
    size = (shape[-2], shape[-1])
    if source.library == TIMM:
        cfg = declared.timm_cfg(source.name)
        fixed = getattr(cfg, "fixed_input_size", False) and not target.given.get("dynamic_img_size")
        return {"img_size": _same_kind(224, size)} if fixed and "img_size" not in target.given else {}
    return {key: value for key, value in _torchvision_size_argument(source, shape).items() if key not in target.given}


def _torchvision_size_argument(source: ZooSource, shape: tuple[int, ...]) -> dict[str, Any]:
    constructor = source.constructor()
    accepted = arguments.accepted(constructor) if constructor is not None else ()
    size = (shape[-2], shape[-1])
    if "image_size" in accepted:
        # One number: what is not square is left for the model to refuse in its own words.
        return {"image_size": size[0]} if size[0] == size[1] else {}
    return {"input_size": size} if "input_size" in accepted else {}


def _of_user(target: Target, spec: InputSpec) -> dict[str, Any]:
    constructor = target.source.constructor()
    if constructor is None:
        return {}
    for key in _OF_USERS:
        if key in arguments.accepted(constructor) and key not in target.given:
            default = arguments.default_of(constructor, key)
            size = (spec.shape[-2], spec.shape[-1]) if len(spec.shape) > 1 else (spec.shape[0], spec.shape[0])
            like = _same_kind(default, size)
            return {key: like} if like != default else {}
    return {}


def _same_kind(default: Any, size: tuple[int, int]) -> Any:
    """The size in the form of the default: one number where that is one and the size is square, else a pair."""
    if isinstance(default, list):
        return list(size)
    if isinstance(default, tuple) or size[0] != size[1]:
        return size
    return size[0]


def _size_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
