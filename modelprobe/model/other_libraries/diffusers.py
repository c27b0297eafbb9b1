"""Hugging Face diffusers: inputs by the names of arguments, from a model's config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.errors import BadInput, one_line
from modelprobe.model.inputs.spec import InputSpec
from modelprobe.model.user_code.arguments import accepted, unknown_setting

_TEXT = 77
_SIDE = 64


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """What `forward` cannot do without, then what else is known; as images, then as sequences."""
    some: Any = model
    config: Any = some.config
    takes = inspect.signature(some.forward).parameters
    required = [name for name, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    known = [name for name in takes if name in _ARGUMENTS and (name != "guidance" or config.get("guidance_embeds"))]
    seen: list[Mapping[str, Any]] = []
    for latent in (_image, _tokens, _video):
        shapes = {name: _ARGUMENTS[name](config) for name in known}
        shapes |= {name: latent(config) for name in ("sample", "hidden_states") if name in takes}
        orders = (required, [*required, *(n for n in known if n not in _OPTIONAL)], known)
        for names in orders:
            found = {name: shapes[name] for name in takes if name in names}
            if names and set(names) <= set(shapes) and found not in seen:
                seen.append(found)
                yield found


def builds(factory: Any) -> bool:
    """Whether `make` is meant: a class whose arguments are its config."""
    return hasattr(factory, "config_name")


def make(factory: Any, given: Mapping[str, Any]) -> nn.Module:
    """The model with these settings. Raises BadInput for those that it does not have, and where defaults do not do."""
    known = accepted(factory.__init__)
    for key in given:
        if key not in known:
            raise unknown_setting(key, known, factory.__name__)
    try:
        model: nn.Module = factory(**given)
    except (ValueError, TypeError, AttributeError) as error:
        what = "these settings" if given else "its defaults"
        hint = f"--set KEY=VALUE sets {', '.join(known[1:9])}, …"
        raise BadInput(f"{factory.__name__} cannot be built from {what}: {one_line(error)}", hint) from error
    return model


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
    names = ("joint_attention_dim", "caption_channels", "text_embed_dim", "text_dim", "cross_attention_dim")
    return InputSpec(None, (1, _TEXT, _number(config, *names, default=768)))


def _spec(shape: tuple[int, ...], dtype: str = "") -> Callable[[Any], InputSpec]:
    return lambda config: InputSpec(None, shape, dtype)


_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
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
    "image_latents": _image,
    "fps": _spec((1,), "int64"),
    "added_time_ids": _spec((1, 3)),
    "original_size": _spec((1, 2)),
    "target_size": _spec((1, 2)),
    "crop_coords": _spec((1, 2)),
    "proj_embedding": lambda config: InputSpec(None, (1, _number(config, "embedding_dim", default=768))),
    "num_frames": lambda config: 9,
    "height": lambda config: 8,
    "width": lambda config: 8,
}
_OPTIONAL = frozenset({"class_labels", "encoder_attention_mask", "conditioning_scale"})
