"""Hugging Face diffusers: inputs by the names of arguments, from a model's config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.model.inputs.spec import InputSpec

_TEXT = 77
_SIDE = 64


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """What `forward` cannot do without, then what else is known; as images, then as sequences."""
    some: Any = model
    config: Any = some.config
    takes = inspect.signature(some.forward).parameters
    required = [name for name, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    known = [name for name in takes if name in _ARGUMENTS]
    for latent in (_image, _tokens, _video):
        shapes = {name: _ARGUMENTS[name](config) for name in known}
        shapes |= {name: latent(config) for name in ("sample", "hidden_states") if name in takes}
        orders = (required, [*required, *(n for n in known if n not in _OPTIONAL)], known)
        for names in orders:
            if names and set(names) <= set(shapes):
                yield {name: shapes[name] for name in takes if name in names}


def _number(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], int):
            return int(value[0])
    return default


def _image(config: Any) -> InputSpec:
    side = _number(config, "sample_size", "image_size", default=_SIDE)
    return InputSpec(None, (1, _number(config, "in_channels", default=4), side, side))


def _tokens(config: Any) -> InputSpec:
    return InputSpec(None, (1, _SIDE, _number(config, "in_channels", default=64)))


def _video(config: Any) -> InputSpec:
    side = _number(config, "sample_size", "sample_height", default=32)
    return InputSpec(None, (1, _number(config, "in_channels", default=4), 9, side, side))


def _text(config: Any) -> InputSpec:
    names = ("cross_attention_dim", "joint_attention_dim", "caption_channels", "text_embed_dim", "encoder_hid_dim")
    return InputSpec(None, (1, _TEXT, _number(config, *names, default=768)))


def _spec(shape: tuple[int, ...], dtype: str = "") -> Callable[[Any], InputSpec]:
    return lambda config: InputSpec(None, shape, dtype)


_ARGUMENTS: dict[str, Callable[[Any], InputSpec]] = {
    "sample": _image,
    "hidden_states": _image,
    "timestep": _spec((1,), "int64"),
    "encoder_hidden_states": _text,
    "class_labels": _spec((1,), "int64"),
    "pooled_projections": lambda config: InputSpec(None, (1, _number(config, "pooled_projection_dim", default=768))),
    "img_ids": _spec((_SIDE, 3)),
    "txt_ids": _spec((_TEXT, 3)),
    "guidance": _spec((1,)),
    "encoder_attention_mask": _spec((1, _TEXT), "int64"),
    "controlnet_cond": lambda config: InputSpec(None, (1, 3, *(8 * size for size in _image(config).shape[-2:]))),
    "conditioning_scale": _spec(()),
}
_OPTIONAL = frozenset({"class_labels", "encoder_attention_mask", "conditioning_scale"})
