"""What is known of another counting tool, and the two shapes in which such tools take a model's inputs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Ask = Callable[["nn.Module", Sequence[Any], Mapping[str, Any]], Any]
"""A model in eval mode and the arguments of its forward -> the tool's own figure for that one forward pass."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool that counts. `ask` has to be a function at the top of a module: the child imports it by name.

    `unit` is what the tool calls its figure, `per_mac` how much of it one multiply-accumulate is. `extra` is the extra
    of ours that installs it, empty where we depend on it. `convention` names the rules that predict its figure, empty
    where there are none. `on_meta` says that its figure is the same without weights and arithmetic.
    """

    name: str
    package: str
    unit: str
    per_mac: int
    ask: Ask
    convention: str = ""
    extra: str = ""
    on_meta: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing of it is imported."""
        try:
            return importlib.util.find_spec(self.package) is not None
        except (ImportError, ValueError):
            return False

    @property
    def version(self) -> str:
        """The installed version, empty where nobody knows."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    @property
    def remedy(self) -> str:
        """How to install it."""
        return f"pip install {f'modelprobe[{self.extra}]' if self.extra else self.package}"


def positional(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments by place, for tools that take no names. Raises TypeError where forward wants a name."""
    if not kwargs:
        return tuple(args)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    if bound.kwargs:
        raise TypeError(f"it takes inputs by place alone, and {next(iter(bound.kwargs))} has a name only")
    return bound.args


def named(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, for tools that take a dict. Raises TypeError where forward wants one by place."""
    if not args:
        return dict(kwargs)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    kinds = {parameter.name: parameter.kind for parameter in bound.signature.parameters.values()}
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if kinds[name] in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            raise TypeError(f"it takes several inputs by name alone, and {name} has none")
        found.update(value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value})
    return found
