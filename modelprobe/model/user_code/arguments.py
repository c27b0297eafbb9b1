"""Arguments for a constructor: parsing `--set key=value`, naming the ones it lacks and the ones it does not know."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from modelprobe.errors import BadInput

_PYTHON_CONSTANTS = {"True": True, "False": False, "None": None}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["width=64", "act=relu"]` -> `{"width": 64, "act": "relu"}`. A value is JSON when it parses, else text."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise BadInput(f"--set {setting!r} is not key=value", "for example: --set num_classes=10")
        if key in parsed:
            raise BadInput(f"--set {key} was given twice", "leave one of the two out")
        parsed[key] = _argument_value(value.strip())
    return parsed


def settings_texts(given: Mapping[str, Any]) -> list[str]:
    """The texts that `parse_settings` turns into these arguments; of values that no text gives, Python's spelling."""
    return [f"{key}={_setting_text(value)}" for key, value in given.items()]


def _setting_text(value: Any) -> str:
    if isinstance(value, str) and _argument_value(value) == value:
        return value
    try:
        return json.dumps(value)
    except TypeError:
        return repr(value)


def _argument_value(text: str) -> Any:
    if text in _PYTHON_CONSTANTS:
        return _PYTHON_CONSTANTS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def required(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments that `factory` cannot do without. None when its signature cannot be read."""
    empty = inspect.Parameter.empty
    kinds = (*_NAMED, inspect.Parameter.POSITIONAL_ONLY)
    return tuple(p.name for p in _parameters(factory) if p.default is empty and p.kind in kinds)


def accepted(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The names that `factory` takes as keyword arguments."""
    return tuple(p.name for p in _parameters(factory) if p.kind in _NAMED)


def takes_any(factory: Callable[..., Any]) -> bool:
    """Whether `factory` has `**kwargs`, or a signature that cannot be read: any key may then be right."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def default_of(factory: Callable[..., Any], key: str) -> Any:
    """The default value of one argument, or None."""
    for parameter in _parameters(factory):
        if parameter.name == key and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return None


def check_call(factory: Callable[..., Any], settings: Mapping[str, Any], label: str) -> None:
    """Raises BadInput when `factory(**settings)` cannot be called: an argument unknown, or one missing."""
    if not takes_any(factory):
        for key in settings:
            if key not in accepted(factory):
                raise unknown_setting(key, accepted(factory), label)
    missing = [name for name in required(factory) if name not in settings]
    if missing:
        hint = " ".join(f"--set {name}=..." for name in missing)
        raise BadInput(f"{label} needs: {', '.join(missing)}", hint)


def unknown_setting(key: str, known: Iterable[str], label: str) -> BadInput:
    """What to say of `--set key=...` when the constructor has no such argument: the accepted ones, nearest first."""
    names = [name for name in known if name != "self"]
    close = get_close_matches(key, names, n=3)
    ordered = [*close, *(name for name in names if name not in close)]
    hint = f"it accepts: {', '.join(ordered)}" if ordered else "it accepts none"
    return BadInput(f"{label} has no argument {key!r}", hint)


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        return []
