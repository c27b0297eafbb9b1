"""Libraries whose models declare what they take in ways of their own; each is one file, used where it is installed.

A file has `inputs(model)`: the keyword arguments of `forward`, the likeliest first, each a spec or a value. It may have
`builds(factory)` and `make(factory, given)`, for classes that do not take the settings of `--set` themselves, and
`named(name)`, for targets that are no attribute of the package. To add a library, write its file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

LIBRARIES: dict[str, str] = {
    "diffusers": "diffusers",
    "open_clip": "open_clip",
    "stable_baselines3": "stable_baselines3",
    "torch_geometric": "torch_geometric",
    "transformers": "transformers",
    "ultralytics": "ultralytics",
    "segmentation_models_pytorch": "segmentation_models",
    "timm": "timm",
}
"""Top-level package of a class, or of a class that it is made from -> the file here."""


def named_by_library(package: str, name: str) -> Callable[..., Any] | None:
    """What builds `package:name` where that is a name of the library's own kind, such as `ultralytics:yolov8n.yaml`."""
    if package not in LIBRARIES:
        return None
    library = import_module(f"{__name__}.{LIBRARIES[package]}")
    found: Callable[..., Any] | None = getattr(library, "named", lambda _: None)(name)
    return found


def library_of(kind: type) -> Any | None:
    """The file of the library that a class, or a base of it, belongs to; None for any other."""
    for base in kind.__mro__:
        file = LIBRARIES.get(str(base.__module__).partition(".")[0])
        if file is not None:
            return import_module(f"{__name__}.{file}")
    return None


def declared_by_library(model: Any) -> Iterator[Mapping[str, Any]]:
    """The keyword arguments that a library's model takes, the likeliest first; none for other models."""
    library = library_of(type(model))
    if library is not None:
        try:
            yield from library.inputs(model)
        except (AttributeError, TypeError, ValueError, KeyError, IndexError):  # a config unlike those that are known
            return
