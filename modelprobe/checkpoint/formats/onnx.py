"""Reader of ONNX models: the initializers, by a walk over the protocol buffer that skips every payload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from modelprobe.checkpoint.bytes.cursor import Cursor
from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.dtypes import ONNX, element_count, tensor_bytes
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.records import Checkpoint, Finding, Item, Scalar, StorageEntry, TensorEntry
from modelprobe.errors import BadInput

MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field numbers of ModelProto and their wire types (onnx.proto)."""

_GRAPH, _OPSET = 7, 8
_FIXED = {1: 8, 5: 4}
TYPED_DATA = {4: 4, 5: 4, 7: 8, 10: 8, 11: 8}
MAX_FIELDS = 3_000_000
MAX_GRAPH_DEPTH = 64


@dataclass
class _Tensor:
    dims: list[int] = field(default_factory=list)
    type: int = 0
    name: str = ""
    raw_at: int = -1
    raw_length: int = 0
    typed: bool = False
    external: dict[str, str] = field(default_factory=dict)
    outside: bool = False


def looks_like_onnx(source: ByteSource) -> bool:
    """ONNX has no magic number: the top-level fields up to the graph must make sense."""
    try:
        cursor = Cursor(source, "<")
        for _ in range(64):
            number, wire, length = _field(cursor)
            if MODEL_FIELDS.get(number) != wire:
                return False
            if number == _GRAPH:
                return length > 1
            if wire:
                cursor.skip(length)
    except BadInput:
        return False
    return False


def read_onnx(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List the initializers of the graph, and of the graphs inside it (branches and loop bodies)."""
    cursor = Cursor(source, "<")
    metadata: dict[str, Scalar] = {}
    raw: list[_Tensor] = []
    opsets: list[str] = []
    for number, wire, end in _fields(cursor, source.size):
        if number == _GRAPH:
            raw.extend(_graph(cursor, end, limits))
        elif number == _OPSET:
            opsets.append(_opset(cursor, end))
        elif number in (2, 3) and wire == 2:
            metadata[{2: "producer", 3: "producer_version"}[number]] = _utf8(cursor, end)
        elif number == 1 and wire == 0:
            metadata["ir_version"] = end
    metadata["opset"] = ", ".join(opsets)
    storages: dict[str, StorageEntry] = {}
    entries = tuple(_onnx_entry(source, tensor, storages) for tensor in raw)
    tree = Item("", "dict", None, "", len(entries), len(entries), sum(entry.nbytes for entry in entries))
    return Checkpoint(
        source.name, "ONNX", str(metadata.get("ir_version", "")), source.size, entries, storages, tree,
        metadata=metadata, findings=tuple(_outside(raw)), files=(source.name,),
    )  # fmt: skip


def _field(cursor: Cursor) -> tuple[int, int, int]:
    """Number, wire type, and the length of the payload (of a varint: its value)."""
    key = cursor.varint()
    number, wire = key >> 3, key & 7
    if wire in (0, 2):
        return number, wire, cursor.varint()
    if wire not in _FIXED or not number:
        raise BadInput(f"{cursor.source.name} is a damaged ONNX file: byte {cursor.at:,} is invalid")
    return number, wire, _FIXED[wire]


def _fields(cursor: Cursor, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields up to `end`: number, wire type, and where the payload ends (of a varint: its value)."""
    for _ in range(MAX_FIELDS):
        if cursor.at >= end:
            return
        number, wire, length = _field(cursor)
        if wire == 0:
            yield number, wire, length
            continue
        stop = cursor.at + length
        if stop > end:
            raise BadInput(f"{cursor.source.name} is a damaged or incomplete ONNX file", "download it again")
        yield number, wire, stop
        cursor.skip(stop - cursor.at)
    raise BadInput(f"{cursor.source.name} has more fields than a model could need")


def _utf8(cursor: Cursor, end: int) -> str:
    length = end - cursor.at
    return cursor.take(min(length, 4096)).decode("utf-8", "backslashreplace")


def _opset(cursor: Cursor, end: int) -> str:
    domain, version = "", 0
    for number, wire, stop in _fields(cursor, end):
        if number == 1 and wire == 2:
            domain = _utf8(cursor, stop)
        elif number == 2 and wire == 0:
            version = stop
    return f"{domain} {version}".strip()


def _graph(cursor: Cursor, end: int, limits: ReadLimits, depth: int = 0) -> Iterator[_Tensor]:
    """The initializers; names are unique throughout a model, so those of inner graphs stand beside the others."""
    if depth > MAX_GRAPH_DEPTH:
        raise BadInput(f"{cursor.source.name} has graphs inside graphs more than {MAX_GRAPH_DEPTH} deep")
    count = 0
    for number, wire, stop in _fields(cursor, end):
        if number == 5 and wire == 2 and count < limits.tensors:
            count += 1
            yield _onnx_tensor(cursor, stop)
        elif number == 1 and wire == 2:
            yield from _nested_graphs(cursor, stop, limits, depth)


def _nested_graphs(cursor: Cursor, end: int, limits: ReadLimits, depth: int) -> Iterator[_Tensor]:
    """The initializers of the graphs that are attributes of a node."""
    for number, wire, stop in _fields(cursor, end):
        if number != 5 or wire != 2:
            continue
        for inside, kind, last in _fields(cursor, stop):
            if inside in (6, 11) and kind == 2:
                yield from _graph(cursor, last, limits, depth + 1)


def _onnx_tensor(cursor: Cursor, end: int) -> _Tensor:
    found = _Tensor()
    for number, wire, stop in _fields(cursor, end):
        if number == 1:
            _dims(cursor, wire, stop, found)
        elif number == 2 and wire == 0:
            found.type = stop
        elif number == 8 and wire == 2:
            found.name = _utf8(cursor, stop)
        elif number == 9 and wire == 2:
            found.raw_at, found.raw_length = cursor.at, stop - cursor.at
        elif number in TYPED_DATA or number == 6:
            found.typed = True
        elif number == 13 and wire == 2 and len(found.external) < 16:
            key, value = _key_and_value(cursor, stop)
            found.external[key] = value
        elif number == 14 and wire == 0:
            found.outside = stop == 1
    return found


def _dims(cursor: Cursor, wire: int, stop: int, found: _Tensor) -> None:
    if wire == 0:
        found.dims.append(stop)
    while wire == 2 and cursor.at < stop and len(found.dims) <= 65:
        found.dims.append(cursor.varint())


def _key_and_value(cursor: Cursor, end: int) -> tuple[str, str]:
    parts = {1: "", 2: ""}
    for number, wire, stop in _fields(cursor, end):
        if number in parts and wire == 2:
            parts[number] = _utf8(cursor, stop)
    return parts[1], parts[2]


def _onnx_entry(source: ByteSource, tensor: _Tensor, storages: dict[str, StorageEntry]) -> TensorEntry:
    shape = tuple(dim - (1 << 64) if dim >> 63 else dim for dim in tensor.dims)
    dtype = ONNX.get(tensor.type, "")
    numel = element_count(shape, dtype)
    nbytes = tensor_bytes(numel or 0, dtype)
    flags = []
    if numel is None:
        flags.append("impossible-shape")
    elif not dtype:
        flags.append("unknown-dtype")
    if tensor.outside:
        flags.append("external")
    elif tensor.raw_at >= 0 and tensor.raw_length != nbytes and dtype:
        flags.append("short-storage")
    elif tensor.raw_at < 0 and not tensor.typed and nbytes:
        flags.append("missing-storage")
    if tensor.name in storages:
        flags.append("duplicate-name")
    located = "data" if tensor.raw_at >= 0 and source.origin is not None else ""
    held = tensor.raw_length if tensor.raw_at >= 0 else nbytes
    storages[tensor.name] = StorageEntry(tensor.name, held, source.name, max(0, tensor.raw_at), located)
    return TensorEntry(
        path=(tensor.name,), shape=shape, dtype=dtype or f"type {tensor.type}",
        strides=packed_strides(shape) if numel is not None else None, nbytes=nbytes, numel=numel or 0,
        storage=tensor.name, storage_nbytes=held, flags=tuple(flags),
    )  # fmt: skip


def _outside(tensors: list[_Tensor]) -> Iterator[Finding]:
    """The files that hold the rest. They are named, not opened; a name that points elsewhere is an attack."""
    for name in sorted({tensor.external.get("location", "") for tensor in tensors if tensor.outside}):
        parts = name.replace("\\", "/").split("/")
        plain = name and ".." not in parts and not parts[0].endswith(":") and not name.startswith(("/", "\\"))
        if plain:
            yield Finding(f"data of some tensors is in another file: {name}")
        else:
            yield Finding(f"a tensor points to a file outside the model's folder: {name or 'no name'}", serious=True)
