"""Inputs from `--inputs-from file.py:make`: the arguments of `forward`, made by the user's own function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.model.construct import seeded
from modelprobe.model.user_code import arguments
from modelprobe.model.user_code import import_file as pyfile
from modelprobe.model.user_code.failure import told
from modelprobe.report.blocks import Level, Note

_FORM = "it must be file.py:make, where make() returns (args, kwargs)"
_SPEC = re.compile(r"(?P<file>.+\.py):(?P<name>[\w.]+)|(?P<module>[\w.]+):(?P<attribute>[\w.]+)", re.DOTALL)


def load_inputs_function(text: str) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Note, ...]]:
    """The positional arguments, the named ones, and notes. Raises BadInput, or ModelRaised when the code raises."""
    value, name, loaded = _found(text, "--inputs-from", _FORM)
    if callable(value) and not isinstance(value, torch.Tensor):
        value = _called(value, name, loaded)
    return split_file_function(value, text)


def load_function(text: str, option: str) -> Callable[..., Any]:
    """The function that `file.py:name` or `module:name` names. Raises BadInput, naming the option."""
    form = f"it must be file.py:function, such as {option} train.py:loss"
    value, name, _ = _found(text, option, form)
    if isinstance(value, type) or not callable(value):
        raise BadInput(f"{option} {text!r}: {name} is no function", form)
    found: Callable[..., Any] = value
    return found


def _found(text: str, option: str, form: str) -> tuple[Any, str, pyfile.Loaded]:
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{option} {text!r} does not name a function", form)
    loaded = pyfile.load_file(match["file"]) if match["file"] else pyfile.load_module(match["module"])
    value: Any = loaded.module
    name = match["name"] or match["attribute"]
    for part in name.split("."):
        if not hasattr(value, part):
            every = vars(loaded.module).items()
            own = [key for key, found in every if key[0] != "_" and _is_own_function(found, loaded.module)]
            raise BadInput(f"{loaded.label} has no {name!r}", f"it has: {', '.join(own[:12]) or 'no functions'}")
        value = getattr(value, part)
    return value, name, loaded


def _called(function: Callable[[], Any], name: str, loaded: pyfile.Loaded) -> Any:
    missing = arguments.required(function)
    if missing:
        raise BadInput(f"{name} needs: {', '.join(missing)}", "--inputs-from calls it without arguments")
    try:
        with seeded(0), loaded.surroundings.entered():
            return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = told(error, loaded.surroundings.directory)
        raise ModelRaised(f"calling {name} failed: {reason}", "--debug shows the traceback") from error


def _is_own_function(value: Any, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def split_file_function(value: Any, label: str) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Note, ...]]:
    """`(args, kwargs)` as they are; a lone tensor, a tuple, a list or a dict as what it can only mean, with a note."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (tuple, list)) and _is_named(value[1]):
        return tuple(value[0]), dict(value[1]), ()
    if isinstance(value, torch.Tensor):
        return (value,), {}, (_taken(label, "a tensor", "the only argument"),)
    if isinstance(value, (tuple, list)):
        return tuple(value), {}, (_taken(label, f"a {type(value).__name__}", "the positional arguments"),)
    if _is_named(value):
        return (), dict(value), (_taken(label, "a dict", "the named arguments"),)
    raise BadInput(f"{label} gave something of type {type(value).__name__}, not inputs", _FORM)


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _taken(label: str, what: str, meaning: str) -> Note:
    return Note(f"{label} gave {what}, taken as {meaning} of forward", Level.INFO)
