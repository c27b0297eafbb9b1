"""The plain value of a node that is no container: numbers, texts, names, numpy scalars, paths, devices."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from modelprobe.checkpoint.pickle.nodes import (
    Blob,
    Dict,
    Global,
    Opaque,
    PendingCall,
    PersistentId,
    PickleNode,
    SetNode,
    called,
    integers,
    object_class,
)
from modelprobe.checkpoint.pickle.rebuild import array_dtype
from modelprobe.checkpoint.records import Scalar

MAX_TEXT_LENGTH = 2_000
"""Characters of a text that is kept."""

MAX_INT = 1 << 256

_FORMATS = {"float64": "d", "float32": "f", "float16": "e", "bool": "?", "int8": "b", "uint8": "B"}
_FORMATS |= {"int64": "q", "int32": "i", "int16": "h", "uint64": "Q", "uint32": "I", "uint16": "H"}

JOINED = {"PosixPath": "/", "WindowsPath": "\\", "PurePosixPath": "/", "PureWindowsPath": "\\"}
Described = tuple[str, Scalar, str]


def scalar(node: PickleNode) -> Described:
    """Kind, value and class name. Anything that needs a walk is an `object` without a value."""
    kind = _PLAIN_KINDS.get(type(node))
    if kind == "str":
        return kind, node if len(node) <= MAX_TEXT_LENGTH else f"{node[:MAX_TEXT_LENGTH]}…", ""
    if kind == "int" and abs(node) > MAX_INT:
        return "int", f"integer of {node.bit_length():,} bits", ""
    if kind is not None:
        return kind, node, ""
    if type(node) is PendingCall:
        return _call(node)
    if type(node) is Global:
        return "class", node.spelled, ""
    if type(node) is Blob:
        return node.kind, f"{node.length:,} bytes" if node.kind == "bytes" else f"text of {node.length:,} bytes", ""
    if type(node) is Opaque:
        return "opaque", node.what, ""
    return ("reference" if type(node) is PersistentId else "object"), None, ""


_PLAIN_KINDS: dict[type, str] = {type(None): "none", bool: "bool", int: "int", float: "float", str: "str"}


def _call(node: PendingCall) -> Described:
    name = called(node)
    args = node.args if type(node.args) is tuple else ()
    last = name.rpartition(".")[2]
    if last == "scalar" and name.startswith("numpy") and len(args) == 2:
        return _numpy_scalar(*args)
    if name in ("torch.device", "torch.serialization._get_layout") and args and type(args[0]) is str:
        return "str", ":".join(str(part) for part in args[:2] if type(part) in (str, int)), name
    if name == "torch.Size" and integers(node) is not None:
        return "shape", "x".join(map(str, integers(node) or ())), name
    if last in JOINED and len(args) < 64 and all(type(part) is str for part in args):
        return "str", JOINED[last].join(args).replace("//", "/")[:MAX_TEXT_LENGTH], name
    if name == "_codecs.encode" and args and type(args[0]) is str:
        return "bytes", f"{len(args[0]):,} bytes", ""
    return "object", None, object_class(node)


def _numpy_scalar(dtype: PickleNode, data: PickleNode) -> Described:
    name, big = array_dtype(dtype)
    raw = data.data if type(data) is Blob else None
    if type(data) is PendingCall and called(data) == "_codecs.encode" and type(data.args) is tuple and data.args:
        data = data.args[0]
    if type(data) is str and len(data) <= 16:
        raw = data.encode("latin-1", "replace")
    letter = _FORMATS.get(name)
    if letter is None or raw is None or len(raw) != struct.calcsize(letter):
        return "object", None, f"numpy.{name or 'scalar'}"
    (value,) = struct.unpack((">" if big else "<") + letter, raw)
    return _PLAIN_KINDS[type(value)], value, f"numpy.{name}"


MAX_KEY_PARTS = 16


def _is_plain_key(key: PickleNode, depth: int = 0) -> bool:
    """Whether a key is a short text, a number, None, or a tuple of such."""
    if type(key) is tuple:
        return len(key) <= MAX_KEY_PARTS and depth < 4 and all(_is_plain_key(part, depth + 1) for part in key)
    if type(key) is str:
        return len(key) <= MAX_TEXT_LENGTH
    return key is None or type(key) in (bool, float) or (type(key) is int and abs(key) <= MAX_INT)


def spelled_keys(keys: Sequence[PickleNode]) -> list[str]:
    """The keys of one dictionary as parts of names: different for different ones, such as 1 and "1"."""
    texts = [key if type(key) is str else key_text(key) for key in keys]
    if len(set(texts)) == len(texts):
        return texts
    taken, numbers, names = set(texts), dict[str, int](), dict[tuple[str, object], str]()
    for text, key in zip(texts, keys, strict=True):
        place = text, _key_identity(key)
        if place in names:
            continue
        number = numbers.get(text, 0)
        while number and f"{text}~{number}" in taken:
            number += 1
        names[place] = f"{text}~{number}" if number else text
        taken.add(names[place])
        numbers[text] = number + 1
    return [names[text, _key_identity(key)] for text, key in zip(texts, keys, strict=True)]


def _key_identity(key: PickleNode) -> object:
    """Equal for two keys that are one to Python."""
    if type(key) is Blob and key.data is not None:
        return key.data
    return key if type(key) in (str, bytes) or _is_plain_key(key) else ("node", id(key))


def key_text(key: PickleNode) -> str:
    """A dictionary key as a part of a name. Text stays as it is; everything else shows its type."""
    if type(key) is str:
        return key
    kind, value, _ = scalar(key)
    if kind in ("int", "bool", "float", "none"):
        return str(value)
    if kind == "bytes" and type(key) is Blob and key.data is not None:
        return repr(key.data[:MAX_TEXT_LENGTH])
    if kind == "class":
        return f"<class {value}>"
    if type(key) is tuple and _is_plain_key(key):
        return repr(key)
    if type(key) in (tuple, list):
        return f"<{type(key).__name__} of {len(key)}>"
    return f"<{'dict' if type(key) is Dict else 'set' if type(key) is SetNode else kind}>"
