"""Targets that are a configuration: `config.json`, a saved model's directory, `hf:org/name`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from modelprobe.errors import BadInput, one_line
from modelprobe.model.zoo import libraries

CONFIG = "config.json"
_LARGEST = 4 << 20


def config_path(spec: str) -> Path:
    """The configuration that `spec` names: the file itself, or the one in a directory."""
    path = Path(spec).expanduser()
    return path / CONFIG if path.is_dir() else path


def from_hub(name: str) -> Path:
    """The configuration of a repository of the Hugging Face hub; nothing else of it is fetched. Raises BadInput."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise BadInput("huggingface_hub is not installed", "pip install huggingface_hub") from error
    try:
        return Path(hf_hub_download(name, CONFIG))
    except Exception as error:
        reason = one_line(error, 200)
        raise BadInput(
            f"{CONFIG} of {name} cannot be fetched: {type(error).__name__}: {reason}",
            "check the name and the network; a directory that holds the file works without one",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration as it stands. Raises BadInput for what is none."""
    try:
        if path.stat().st_size > _LARGEST:
            raise BadInput(f"{path} is too large to be a configuration")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} is not JSON: {one_line(error)}", "a configuration is the config.json of a model"
        ) from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds a {type(found).__name__}, not a configuration")
    return found


def timm_name(config: Mapping[str, Any]) -> str:
    """The architecture that a configuration of timm names, else nothing."""
    name = config.get("architecture")
    return name if isinstance(name, str) and not config.get("model_type") else ""


def builder_of(config: Mapping[str, Any], label: str) -> Callable[..., Any]:
    """What builds the model that the configuration describes; it takes settings that change it.

    Raises BadInput when its library is not known or not installed, or when it needs code from a hub.
    """
    if "auto_map" in config and not config.get("model_type"):
        raise BadInput(f"{label} needs code that stands on the hub", "install that code and name its class")
    if isinstance(config.get("_class_name"), str):
        return partial(_diffusers, dict(config))
    if isinstance(config.get("model_type"), str):
        return partial(_transformers, dict(config))
    raise BadInput(
        f"{label} does not say which library it is of",
        "known are transformers (model_type), diffusers (_class_name) and timm (architecture)",
    )


def _transformers(config: dict[str, Any], **given: Any) -> Any:
    transformers = libraries.optional("transformers")
    from modelprobe.model.other_libraries.transformers import settled

    kind = config["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise BadInput(f"the installed transformers has no model_type {kind!r}", "a newer one may")
    made = settled(transformers.CONFIG_MAPPING[kind], config, given)
    names = [name for name in config.get("architectures") or () if hasattr(transformers, str(name))]
    return getattr(transformers, names[0])(made) if names else transformers.AutoModel.from_config(made)


def _diffusers(config: dict[str, Any], **given: Any) -> Any:
    diffusers = libraries.optional("diffusers")
    name = config["_class_name"]
    factory = getattr(diffusers, name, None)
    if factory is None:
        raise BadInput(f"the installed diffusers has no class {name!r}", "a newer one may")
    return factory.from_config({**config, **given})
