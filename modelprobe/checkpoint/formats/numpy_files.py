"""Reader of `.npy` and `.npz` files: the short text header of each array has one form only."""

from __future__ import annotations

import re

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.bytes.zip import DEFLATED, ZipDirectory
from modelprobe.checkpoint.dtypes import element_count, numpy_dtype, tensor_bytes
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.records import Checkpoint, Finding, Item, StorageEntry, TensorEntry
from modelprobe.errors import BadInput

NPY_MAGIC = b"\x93NUMPY"
MAX_NPY_HEADER = 4096
MAX_DIGITS = 20

_HEADER = re.compile(
    r"\s*\{(?=.*?'descr':\s*'(?P<descr>[^']{1,32})')(?=.*?'fortran_order':\s*(?P<fortran>True|False))"
    r"(?=.*?'shape':\s*\((?P<shape>[-\d\s,L]*)\))[^{}]*\}\s*",
)


_NO_NUMBERS = re.compile(r"[<>|=]?([SUaV]\d+|[Mm]8(\[\w+\])?|f16|c32)")
"""Texts, records, dates, and floats wider than torch's."""


def read_npy(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a single array."""
    found: dict[str, StorageEntry] = {}
    entry = _array_entry(source, (), found, source.size)
    spare = source.size - sum(storage.length + storage.position for storage in found.values()) if found else 0
    findings = (Finding(f"{spare:,} bytes follow the array", serious=True),) if spare > 0 else ()
    tree = Item("", "tensor", None, "", 1, 1, entry.nbytes)
    return Checkpoint(
        source.name, "npy", "", source.size, (entry,), found, tree, findings=findings, files=(source.name,)
    )


def read_npz(archive: ZipDirectory, root: str, limits: ReadLimits) -> Checkpoint:
    """List the arrays of an `.npz`, in the order of its directory."""
    entries: list[TensorEntry] = []
    storages: dict[str, StorageEntry] = {}
    for name, member in archive.members.items():
        if not name.endswith(".npy"):
            continue
        if len(entries) >= limits.tensors:
            break
        packed = member.method == DEFLATED
        entries.append(
            _array_entry(archive.open(member, MAX_NPY_HEADER * 64), (name[:-4],), storages, member.size, packed)
        )
    source = archive.source
    others = [name for name in archive.members if not name.endswith(".npy")]
    findings = [Finding(f"{len(others):,} members are not arrays, such as {others[0]}")] if others else []
    findings += [Finding(text, serious=True) for text in archive.findings]
    tree = Item("", "dict", None, "", len(entries), len(entries), sum(entry.nbytes for entry in entries))
    return Checkpoint(
        source.name, "npz", "", source.size, tuple(entries), storages, tree, findings=tuple(findings),
        files=(source.name,),
    )  # fmt: skip


def _array_entry(
    source: ByteSource, path: tuple[str, ...], storages: dict[str, StorageEntry], size: int, packed: bool = False
) -> TensorEntry:
    name = path[0] if path else ""
    text, begin = _npy_header(source, name)
    match = _HEADER.fullmatch(text)
    if match is None:
        if "'O'" in text or "|O" in text:
            return TensorEntry(path, (), "object", flags=("code-payload",))
        if "'descr': [" in text:
            return TensorEntry(path, (), "structured", flags=("no-numbers",))
        raise BadInput(f"{source.name} has an array whose header is invalid{f': {name}' if name else ''}")
    descr = match["descr"]
    dtype, big = numpy_dtype(descr)
    dims = [dim.strip().rstrip("L") for dim in match["shape"].split(",") if dim.strip()]
    sane = all(re.fullmatch(r"-?\d{1,%d}" % MAX_DIGITS, dim) for dim in dims)  # noqa: UP031
    shape = tuple(int(dim) for dim in dims) if sane else ()
    numel = element_count(shape, dtype) if sane else None
    flags = ["big-endian"] if big else []
    if "O" in descr:
        flags.append("code-payload")
    elif not dtype:
        flags.append("no-numbers" if _NO_NUMBERS.fullmatch(descr) else "unknown-dtype")
    if numel is None:
        flags.append("impossible-shape")
    nbytes = tensor_bytes(numel or 0, dtype)
    if nbytes > size - begin:
        flags.append("short-storage")
    if "code-payload" in flags or "no-numbers" in flags:
        return TensorEntry(path, shape, descr, numel=numel or 0, flags=tuple(flags))
    located = "data" if source.origin is not None and not packed else ""
    storages[name] = StorageEntry(name, max(0, size - begin), source.name, (source.origin or 0) + begin, located)
    return TensorEntry(
        path=path, shape=shape, dtype=dtype or descr, strides=packed_strides(shape, match["fortran"] == "True"),
        nbytes=nbytes, numel=numel or 0, storage=name, storage_nbytes=max(0, size - begin), device="cpu",
        flags=tuple(flags),
    )  # fmt: skip


def _npy_header(source: ByteSource, name: str) -> tuple[str, int]:
    """The text of an array's header, and where its data begin."""
    head = source.read(0, MAX_NPY_HEADER)
    if head[:6] != NPY_MAGIC or len(head) < 12 or head[6] not in (1, 2, 3):
        raise BadInput(f"{source.name} holds something that is no array{f': {name}' if name else ''}")
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    if start + length > len(head):
        raise BadInput(f"{source.name} has an array with a header of {length:,} bytes{f': {name}' if name else ''}")
    return head[start : start + length].decode("latin-1"), start + length
