"""The models of a package that can be built without an argument: its classes and its factories."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_type_hints

from modelprobe.errors import BadInput
from modelprobe.model.zoo import libraries


def targets_of_package(package: str) -> list[str]:
    """`package.module:name` of every model class, and of every function annotated to return one, of the package.

    Its modules are imported; one that does not import is passed over. Raises BadInput when there is none.
    """
    root = libraries.optional(package)
    found: dict[Any, str] = {}
    for module in _modules_of_package(root):
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and _makes_a_model(value):
                found.setdefault(value, f"{module.__name__}:{name}")
    if not found:
        raise BadInput(
            f"{package} has no model that is built without an argument",
            "name one: modelprobe flops package.module:Class",
        )
    return sorted(found.values())


def _modules_of_package(root: ModuleType) -> Iterator[ModuleType]:
    yield root
    for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{root.__name__}.", onerror=lambda _: None):
        if info.name.rpartition(".")[2] in ("__main__", "conftest") or ".tests" in info.name:
            continue
        try:
            yield importlib.import_module(info.name)
        except Exception:  # noqa: BLE001 - a module for another platform, or with a dependency that is missing
            continue


def _makes_a_model(value: Any) -> bool:
    from torch import nn

    if isinstance(value, type):
        return issubclass(value, nn.Module) and not inspect.isabstract(value) and not _required(value)
    if not inspect.isfunction(value) or value.__name__.startswith("_"):
        return False
    try:
        returned = get_type_hints(value).get("return")
    except Exception:  # noqa: BLE001 - names that exist for type checkers only
        return False
    return isinstance(returned, type) and issubclass(returned, nn.Module) and not _required(value)


def _required(value: Any) -> bool:
    """Whether it needs an argument."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return True
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in free for p in parameters)
