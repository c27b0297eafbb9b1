"""The JSON Schema of a result, derived from the types of its fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import types
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from pathlib import Path
from typing import Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PLAIN_TYPES: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"}, int: {"type": "integer"}, str: {"type": "string"}, Path: {"type": "string"},
    float: {"type": ["number", "null"]},  # null in the place of NaN and infinity, which JSON lacks
    type(None): {"type": "null"}, Any: {}, object: {},
}  # fmt: skip


def schema_of_report(name: str, results: Mapping[str, type] | type) -> dict[str, Any]:
    """What `-f json` prints under the schema `name`: a result's fields, or several results each under its key."""
    schemas = _ClassSchemas()
    if isinstance(results, type):
        body = schemas.fields_of(results)
    else:
        found = {key: schemas.of(result) for key, result in results.items()}
        body = {"properties": {"model": {"type": "string"}, **found}, "required": ["model", *found]}
    note = {
        "type": "object",
        "properties": {"level": {"enum": ["info", "assumed", "warning"]}, "text": _PLAIN_TYPES[str]},
    }
    own = {
        "schema": {"const": name}, "title": _PLAIN_TYPES[str], "env": {"type": "object"},
        "notes": {"type": "array", "items": {**note, "required": ["level", "text"]}},
    }  # fmt: skip
    return {
        "$schema": DIALECT, "title": name, "type": "object", "properties": {**body["properties"], **own},
        "required": list(dict.fromkeys([*own, *body["required"]])), "$defs": schemas.known,
    }  # fmt: skip


class _ClassSchemas:
    """Schemas of dataclasses, each written once and referred to by name."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}

    def fields_of(self, cls: type) -> dict[str, Any]:
        """The fields that JSON holds, all of them required; a result may add others."""
        hints = _hints(cls)
        fields = [field.name for field in dataclasses.fields(cls) if field.repr]
        return {
            "type": "object", "properties": {name: self.of(hints.get(name, Any)) for name in fields},
            "required": fields,
        }  # fmt: skip

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of what a field of that type is in JSON."""
        if kind in _PLAIN_TYPES:
            return _PLAIN_TYPES[kind]
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(arg) for arg in args]}
        if origin is Literal:
            return {"enum": list(args)}
        if isinstance(origin, type):
            return self._container(origin, args)
        if not isinstance(kind, type) or isinstance(kind, (ForwardRef, TypeVar)):
            return {}
        if issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        if dataclasses.is_dataclass(kind):
            if kind.__name__ not in self.known:
                self.known[kind.__name__] = {}  # before its fields, which may be of the same class
                self.known[kind.__name__] = self.fields_of(kind)
            return {"$ref": f"#/$defs/{kind.__name__}"}
        if issubclass(kind, tuple):
            return {"type": "array", "prefixItems": [self.of(hint) for hint in _hints(kind).values()]}
        return self._container(kind, ())

    def _container(self, origin: type, args: Sequence[Any]) -> dict[str, Any]:
        if issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(args[1]) if args else {}}
        if issubclass(origin, tuple) and args and args[-1] is not Ellipsis:
            return {"type": "array", "prefixItems": [self.of(arg) for arg in args]}
        if issubclass(origin, (Sequence, Set)):
            return {"type": "array", "items": self.of(args[0]) if args else {}}
        return {}


def _hints(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        own = inspect.get_annotations(base)
        if own:
            alone = type(base.__name__, (), {"__annotations__": own, "__module__": base.__module__})
            found |= get_type_hints(alone, {**vars(sys.modules[base.__module__]), **_names_for_types(base)})
    return found


def _names_for_types(cls: type) -> dict[str, Any]:
    """What the class's file imports for type checkers alone."""
    names: dict[str, Any] = {}
    for node in ast.parse(inspect.getsource(sys.modules[cls.__module__])).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            own = [line for line in node.body if "modelprobe" in (getattr(line, "module", "") or "")]
            exec(compile(ast.Module(own, []), cls.__module__, "exec"), names)
    return names
