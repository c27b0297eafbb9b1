"""Hugging Face transformers: inputs from a model's config, models from `--set` of that config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.errors import BadInput, one_line
from modelprobe.model.inputs.spec import InputSpec
from modelprobe.model.user_code.arguments import unknown_setting
from modelprobe.model.zoo import libraries

_TOKENS = 128
_SAMPLES = 16_000  # one second of sound
_FRAMES = 128  # of a spectrogram


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """The main input alone, then with what encoder-decoders, image-text and audio-text models take beside it."""
    some: Any = model
    config, main = some.config, getattr(some, "main_input_name", "input_ids")
    known = _arguments(config)
    takes = inspect.signature(some.forward).parameters
    if main not in known:
        main = next((name for name in known if name in takes), "")
    least = [main]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        least.append("decoder_input_ids")
    required = [name for name, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    orders = [least, [*least, *required]]
    orders += [[*least, name] for name in known if name in takes]
    orders += [["pixel_values", "input_ids", "decoder_input_ids"], [name for name in known if name in takes]]
    seen: list[set[str]] = []
    for order in orders:
        names = {name for name in order if name in takes}
        if names and names not in seen and names <= set(known):
            seen.append(names)
            yield {name: known[name] for name in takes if name in names}


def _arguments(config: Any) -> dict[str, InputSpec]:
    """Every argument of the field's names that the config gives a shape."""
    text = _part(config, "text_config", "text_encoder", "decoder", "encoder")
    vision = _part(config, "vision_config", "backbone_config", "encoder")
    audio = _part(config, "audio_config", "audio_encoder", "speech_encoder", "encoder")
    ids = InputSpec(None, (1, _length(text)), "int64")
    found: dict[str, InputSpec] = {}
    if _first(text, "vocab_size"):
        found |= {"input_ids": ids, "decoder_input_ids": ids}
    found["pixel_values"] = InputSpec(None, _pixels(vision, config))
    found["pixel_values_videos"] = InputSpec(None, (1, 16, *_pixels(vision, config)[-3:]))
    found["input_values"] = InputSpec(None, _sound(audio))
    found["input_features"] = InputSpec(None, _spectrogram(audio))
    found["past_values"] = InputSpec(None, _series(config))
    return found


def _part(config: Any, *names: str) -> Any:
    """The first of a config's parts that there is, else the config itself."""
    return next((part for name in names if hasattr(part := getattr(config, name, None), "to_dict")), config)


def _first(config: Any, *names: str, default: Any = None) -> Any:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)


def _length(config: Any) -> int:
    positions = _first(config, "max_position_embeddings", "n_positions", "max_target_positions", default=_TOKENS + 2)
    # Some families number positions from the padding's on: two fewer fit.
    return max(1, min(_TOKENS, positions - 2)) if isinstance(positions, int) and positions > 0 else _TOKENS


def _pixels(config: Any, outer: Any) -> tuple[int, ...]:
    size = _first(config, "image_size", "input_size", "img_size") or _first(outer, "image_size", default=224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = _first(config, "num_channels", "in_channels", "in_chans", "num_input_channels", default=3)
    frames = _first(config, "num_frames", default=0)
    return (1, frames, channels, height, width) if frames else (1, channels, height, width)


def _sound(config: Any) -> tuple[int, ...]:
    """Raw samples, or [1, time, mel bins] where the config counts bins and has no convolutions over samples."""
    bins = _first(config, "num_mel_bins")
    if bins and not hasattr(config, "conv_stride"):
        return (1, _first(config, "max_length", default=_FRAMES), bins)
    return (1, _SAMPLES)


def _spectrogram(config: Any) -> tuple[int, ...]:
    """[1, mel bins, time] as Whisper takes it, else [1, time, features]."""
    positions = _first(config, "max_source_positions", default=0)
    bins = _first(config, "num_mel_bins", default=80)
    if positions and not hasattr(config, "input_feat_per_channel"):
        return (1, bins, 2 * positions)
    return (1, _FRAMES, _first(config, "feature_projection_input_dim", "input_feat_per_channel", default=bins))


def _series(config: Any) -> tuple[int, ...]:
    length = _first(config, "context_length", default=_FRAMES)
    channels = _first(config, "num_input_channels", "input_size", default=1)
    return (1, length, channels) if channels != 1 or hasattr(config, "num_input_channels") else (1, length)


def make(factory: Any, given: Mapping[str, Any]) -> nn.Module:
    """The model of a config with these settings; of an Auto class, of `--set model_type=...`. Nothing is downloaded."""
    config_class = getattr(factory, "config_class", None)
    if config_class is not None:
        config = _configured(config_class, given)
        try:
            model: nn.Module = factory(config)
        except (ValueError, TypeError, AttributeError) as error:
            defaults = "these settings" if given else "the defaults of its config"
            raise BadInput(
                f"{factory.__name__} cannot be built from {defaults}: {one_line(error)}",
                "--set KEY=VALUE sets what its config takes",
            ) from error
        return model
    kind = given.get("model_type")
    if not kind:
        raise BadInput(f"{factory.__name__} needs --set model_type=...", "such as --set model_type=bert")
    auto = libraries.optional("transformers").AutoConfig
    rest = {key: value for key, value in given.items() if key != "model_type"}
    built: nn.Module = factory.from_config(_configured(type(auto.for_model(kind)), rest))
    return built


def settled(config_class: Any, config: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The config that a file holds, with these settings in their place."""
    _check_settings(config_class, given, config)
    return config_class.from_dict({**config, **given})


def _check_settings(config_class: Any, given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if not given:
        return
    default = config_class()
    known = sorted({*default.to_dict(), *default.attribute_map, *config})
    for key in given:
        if key not in known and not hasattr(default, key):
            raise unknown_setting(key, known, config_class.__name__)


def _configured(config_class: Any, given: Mapping[str, Any]) -> Any:
    _check_settings(config_class, given, {})
    return config_class(**given)


def builds(factory: Any) -> bool:
    """Whether `make` is meant: the class takes a config and not the settings themselves."""
    return hasattr(factory, "config_class") or hasattr(factory, "from_config")
