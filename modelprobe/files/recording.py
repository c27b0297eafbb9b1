"""Files of recorded values: named sections of dataclasses and named tuples, as compressed JSON, without pickle.

A section is read back as the type that the reader names: every field is checked against its annotation, so that a file
can say nothing that a recording could not hold.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from modelprobe._version import __version__
from modelprobe.errors import BadInput

Decoder = Callable[[Any], Any]

MAGIC = b"modelprobe trace "
FORMAT = 2
MAX_FILE_BYTES, MAX_TEXT_BYTES = 2**28, 2**30


class _OtherTypeError(ValueError):
    """A value is not what its place wants."""


@dataclasses.dataclass(frozen=True)
class TraceFile:
    """A file that was read: its sections as JSON, decoded when they are asked for."""

    path: str
    sections: Mapping[str, Any]

    def get(self, name: str, kind: Any) -> Any:
        """A section as that type: a dataclass, a NamedTuple, or tuples and mappings of them. Raises BadInput."""
        try:
            return _decoder(kind)(self.sections[name])
        except (_OtherTypeError, RecursionError) as error:
            raise _damaged(self.path, f"{name}: {error}") from error


def write_recording(path: Path, sections: Mapping[str, Any], force: bool = False) -> None:
    """Write the sections, whole or not at all. Raises BadInput where the file exists, unless `force`."""
    from modelprobe.files.atomic import atomic_write

    atomic_write(path, recording_bytes(sections), force=force)


def recording_bytes(sections: Mapping[str, Any]) -> bytes:
    """The sections as the bytes of a file."""
    values = {"modelprobe": __version__, "sections": {name: _as_json(value) for name, value in sections.items()}}
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return MAGIC + str(FORMAT).encode() + b"\n" + zlib.compress(text, 9)


def read_recording(path: str) -> TraceFile:
    """Read a file. Raises BadInput for one that is none, of another format, damaged, or too large."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}", "name a file of --save-trace") from error
    return parse_recording(data, path)


def parse_recording(data: bytes, path: str) -> TraceFile:
    """The bytes of a file, which is called `path`. Raises BadInput for what is none, as `read_recording` does."""
    head, _, body = data.partition(b"\n")
    if not head.startswith(MAGIC):
        raise BadInput(f"{path} is no trace of modelprobe", "`modelprobe trace TARGET -o run.mptrace` writes one")
    if head != MAGIC + str(FORMAT).encode():
        version = head[len(MAGIC) :][:20].decode("utf-8", "replace")
        raise BadInput(
            f"{path} is a trace of format {version}, and this modelprobe reads format {FORMAT}",
            "record it again with the modelprobe that is installed",
        )
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(body, MAX_TEXT_BYTES)
        if len(data) > MAX_FILE_BYTES or unpacker.unconsumed_tail:
            raise BadInput(f"{path} is larger than a trace may be", f"at most {MAX_TEXT_BYTES:,} bytes unpacked")
        if not unpacker.eof or unpacker.unused_data:
            raise _damaged(path, "something follows its end" if unpacker.eof else "it ends early")
        values = json.loads(text.decode("utf-8", "surrogatepass"))
    except (zlib.error, ValueError, RecursionError) as error:  # ValueError: no text, no JSON, an endless number
        raise _damaged(path, str(error)) from error
    sections = values.get("sections") if isinstance(values, dict) else None
    if not isinstance(sections, dict):
        raise _damaged(path, "it has no sections")
    return TraceFile(path, sections)


def _damaged(path: str, why: str) -> BadInput:
    return BadInput(f"{path} is damaged: {why[:200]}", "record it again with --save-trace")


def _as_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_as_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(_as_json, value))
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _as_json(item) for key, item in value.items()}
        return [[_as_json(key), _as_json(item)] for key, item in value.items()]
    if dataclasses.is_dataclass(value):
        return [_as_json(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return str(value)


@lru_cache(maxsize=256)
def _decoder(hint: Any) -> Decoder:
    """What turns JSON into a value of that annotation, or raises _OtherTypeError."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _anything
    if hint in (int, float, str, bool, type(None)):
        return partial(_plain_value, hint)
    if origin is Literal:
        return partial(_one_of, given)
    if origin in (typing.Union, types.UnionType):
        return partial(_first_that_fits, tuple(map(_decoder, given)))
    if hint is tuple or origin is tuple:
        if not given or given[-1] is Ellipsis:
            return partial(_items_of, tuple, _decoder(given[0]) if given else _anything)
        return partial(_fields, lambda *values: values, tuple(map(_decoder, given)))
    if origin is frozenset:
        return partial(_items_of, frozenset, _decoder(given[0]))
    if origin is not None and issubclass(origin, Mapping):
        return partial(_mapping, _decoder(given[0]), _decoder(given[1]))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return partial(_of_enum, hint)
    if isinstance(hint, type) and issubclass(hint, tuple):
        fields = typing.get_type_hints(hint)
        return partial(_fields, hint, tuple(_decoder(fields[name]) for name in hint._fields))  # type: ignore[attr-defined]
    classes = {len(dataclasses.fields(one)): one for one in (*hint.__subclasses__(), hint)}
    return partial(_object, {many: partial(_fields, one, _fields_of(one)) for many, one in classes.items()})


def _fields_of(cls: Any) -> tuple[Decoder, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_decoder(hints[field.name]) for field in dataclasses.fields(cls))


def _plain_value(kind: type, value: Any) -> Any:
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise _OtherTypeError(f"{kind.__name__} expected, not {str(value)[:40]!r}")


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, (str, int)) and value in choices:
        return value
    raise _OtherTypeError(f"{str(value)[:40]!r} is none of {', '.join(map(str, choices))}")


def _of_enum(cls: Any, value: Any) -> Any:
    try:
        return cls(value)
    except ValueError as error:
        raise _OtherTypeError(str(error)) from error


def _first_that_fits(decoders: tuple[Decoder, ...], value: Any) -> Any:
    for decoder in decoders[:-1]:
        try:
            return decoder(value)
        except _OtherTypeError:
            continue
    return decoders[-1](value)


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise _OtherTypeError(f"a list expected, not {str(value)[:40]!r}")


def _items_of(kind: Callable[[Any], Any], decoder: Decoder, value: Any) -> Any:
    return kind(map(decoder, _list(value)))


def _fields(make: Callable[..., Any], decoders: tuple[Decoder, ...], value: Any) -> Any:
    items = _list(value)
    if len(items) != len(decoders):
        raise _OtherTypeError(f"{len(decoders)} values expected, not {len(items)}")
    return make(*(decoder(item) for decoder, item in zip(decoders, items, strict=True)))


def _object(by_length: Mapping[int, Decoder], value: Any) -> Any:
    items = _list(value)
    if len(items) not in by_length:
        raise _OtherTypeError(f"{' or '.join(map(str, by_length))} values expected, not {len(items)}")
    return by_length[len(items)](items)


def _mapping(key: Decoder, item: Decoder, value: Any) -> dict[Any, Any]:
    pairs = [list(pair) for pair in value.items()] if isinstance(value, dict) else _list(value)
    return dict(_fields(lambda *pair: pair, (key, item), list(_list(pair))) for pair in pairs)


def _anything(value: Any) -> Any:
    """Plain values; lists are tuples, as in records."""
    if isinstance(value, dict):
        return {key: _anything(item) for key, item in value.items()}
    return tuple(map(_anything, value)) if isinstance(value, list) else value
