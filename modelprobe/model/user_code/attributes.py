"""Finding the model in a user's module: its `nn.Module` classes, factories and instances, and the one that is meant."""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from modelprobe.errors import BadInput, one_line
from modelprobe.model.user_code import arguments
from modelprobe.model.user_code.import_file import Loaded


@dataclass(frozen=True, slots=True)
class Offer:
    """Something in a module that gives a model. `certain` is false for a function that does not say what it returns."""

    name: str
    needs: tuple[str, ...]
    certain: bool

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.needs)})" if self.needs else self.name


def offers(module: ModuleType) -> tuple[Offer, ...]:
    """What the module itself defines (not what it imports), those that need no arguments first, else in file order."""
    found = [offer for name, value in vars(module).items() if (offer := _offer(name, value, module)) is not None]
    return tuple(sorted(found, key=lambda offer: (not offer.certain, bool(offer.needs))))


def _offer(name: str, value: Any, module: ModuleType) -> Offer | None:
    from torch import nn

    if name.startswith("_"):
        return None
    if isinstance(value, nn.Module):
        return Offer(name, (), certain=True)
    home = str(getattr(value, "__module__", ""))
    if home != module.__name__ and not (hasattr(module, "__path__") and home.startswith(f"{module.__name__}.")):
        return None
    if isinstance(value, type):
        return Offer(name, arguments.required(value), certain=True) if issubclass(value, nn.Module) else None
    if not inspect.isfunction(value):
        return None
    returned = _returned(value)
    if returned is None or (isinstance(returned, type) and issubclass(returned, nn.Module)):
        return Offer(name, arguments.required(value), certain=returned is not None)
    return None


def _returned(function: Any) -> Any:
    """The annotated return type; None where there is none, or where it cannot be resolved."""
    if function.__annotations__.get("return", function) is None:
        return type(None)
    try:
        return typing.get_type_hints(function).get("return")
    except Exception:  # noqa: BLE001 - annotations are the user's own expressions
        return None


def only_offer(loaded: Loaded) -> Offer:
    """The one thing that a file alone can mean. Raises BadInput, with the list, when there is none or a choice."""
    every = offers(loaded.module)
    certain = [offer for offer in every if offer.certain]
    candidates = certain or [offer for offer in every if not offer.needs]
    if len(candidates) == 1:
        return candidates[0]
    if not every:
        raise BadInput(f"{loaded.label} defines no torch.nn.Module and no factory", "name another file")
    example = f"for example {loaded.label}:{every[0].name}"
    raise BadInput(f"{loaded.label} has several: {listing(every)}", f"say which: {example}")


def _has(value: Any, part: str) -> bool:
    """Whether there is such an attribute. Raises BadInput when a library loads it on demand and cannot."""
    try:
        return hasattr(value, part)
    except ImportError as error:
        raise BadInput(f"{part} cannot be imported: {one_line(error)}", "install what it needs") from error


def attribute(loaded: Loaded, dotted: str) -> Any:
    """`Outer.Inner` of the module. Raises BadInput with what there is instead."""
    value: Any = loaded.module
    for part in dotted.split("."):
        if not _has(value, part):
            raise _missing(loaded, dotted)
        value = getattr(value, part)
    if not callable(value):
        raise BadInput(
            f"{loaded.label}:{dotted} is of type {type(value).__name__}, not a torch.nn.Module or a function",
            f"there are: {listing(offers(loaded.module))}",
        )
    return value


def listing(every: tuple[Offer, ...]) -> str:
    """`Net, make, Block(width)`, at most a dozen."""
    shown = ", ".join(str(offer) for offer in every[:12])
    return f"{shown}, … ({len(every)} in all)" if len(every) > 12 else shown or "none"


def _missing(loaded: Loaded, dotted: str) -> BadInput:
    every = offers(loaded.module)
    close = get_close_matches(dotted, [offer.name for offer in every], n=3, cutoff=0.5)
    ordered = tuple(sorted(every, key=lambda o: close.index(o.name) if o.name in close else len(close)))
    hint = f"it has: {listing(ordered)}" if every else "it defines no torch.nn.Module and no factory"
    return BadInput(f"{loaded.label} has no {dotted!r}", hint)
