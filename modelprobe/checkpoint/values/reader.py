"""Values of single tensors, read from their storage by position; no code of the file is involved.

Nothing is read but the bytes between a view's first and last element, and never more than a bound.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import TYPE_CHECKING

from modelprobe.checkpoint.bytes.source import ByteSource, FileSource, Inflated
from modelprobe.checkpoint.dtypes import BITS
from modelprobe.checkpoint.records import FLAG_TEXT, Checkpoint, StorageEntry, TensorEntry
from modelprobe.errors import BadInput
from modelprobe.report.units import size as bytes_text

if TYPE_CHECKING:
    import torch

MAX_READ_BYTES = 16 << 30
"""Bytes of one tensor that are read unless the caller says otherwise."""

UNREADABLE = (
    "sparse",
    "nested",
    "subclass",
    "no-storage",
    "code-payload",
    "no-numbers",
    "external",
    "flat-slice",
)
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


class TensorReader:
    """Reads tensors of one checkpoint; keeps its files open until closed."""

    def __init__(self, checkpoint: Checkpoint, bound: int = MAX_READ_BYTES) -> None:
        self._checkpoint = checkpoint
        self._bound = bound
        self._files: dict[str, FileSource] = {}
        self._inflating: tuple[StorageEntry, Inflated] | None = None

    def raw(self, entry: TensorEntry) -> tuple[bytes, int]:
        """The bytes from the lowest to the highest element of a tensor, and where element 0 of the view lies in them.

        Raises BadInput for a damaged entry, and for one whose values do not stand in the file as plain elements.
        """
        storage = self._storage(entry)
        item = BITS[entry.dtype] // 8
        low, high = _extent(entry, item)
        if high - low > self._bound:
            raise BadInput(f"{entry.name} spans {bytes_text(high - low)}, more than is read")
        data = self._bytes(storage, low, high - low)
        if len(data) < high - low:
            raise BadInput(f"{entry.name} ends early: the file is shorter than it says")
        return data, entry.offset - low

    def packed(self, entry: TensorEntry, start: int, length: int) -> bytes:
        """Bytes of a tensor that is packed in blocks, as they stand. Raises BadInput for a damaged one."""
        data = self._bytes(self._located(entry), entry.offset + start, length)
        if len(data) < length:
            raise BadInput(f"{entry.name} ends early: the file is shorter than it says")
        return data

    def load(self, entry: TensorEntry) -> torch.Tensor:
        """The tensor, with its own shape and strides, on the CPU. Imports torch."""
        import torch

        dtype = getattr(torch, entry.dtype, None)
        if dtype is None:
            raise BadInput(f"{entry.name} has a dtype that this torch does not have: {entry.dtype}")
        data, start = self.raw(entry)
        if not entry.numel:
            return torch.empty(entry.shape, dtype=dtype)
        buffer = bytearray(data)
        item = BITS[entry.dtype] // 8
        if "big-endian" in entry.flags and item > 1:
            width = item // 2 if entry.dtype.startswith("complex") else item
            buffer = bytearray(torch.frombuffer(buffer, dtype=torch.uint8).reshape(-1, width).flip(1).numpy().tobytes())
        flat = torch.frombuffer(buffer, dtype=dtype)
        view = flat.as_strided(entry.shape, entry.strides or (), start // item)
        view = view.conj().resolve_conj() if "conjugate" in entry.flags else view
        return -view if "negated" in entry.flags else view

    def check(self, entry: TensorEntry) -> None:
        """Raises BadInput for a tensor whose values cannot be read; reads nothing."""
        self._storage(entry)

    def seekable(self, entry: TensorEntry) -> bool:
        """Whether a part of the tensor can be read without reading what stands before it."""
        storage = self._checkpoint.storages.get(entry.storage)
        return storage is not None and storage.located in ("data", "zip-stored", "held")

    def _storage(self, entry: TensorEntry) -> StorageEntry:
        storage = self._located(entry)
        if BITS.get(entry.dtype, 0) % 8 or entry.dtype not in BITS or entry.strides is None:
            raise BadInput(f"{entry.name} cannot be read as plain values: {entry.dtype} packs its elements")
        return storage

    def _located(self, entry: TensorEntry) -> StorageEntry:
        if entry.damaged:
            raise BadInput(f"{entry.name} cannot be read: {FLAG_TEXT.get(entry.flags[0], 'it is damaged')}")
        for flag in entry.flags:
            if flag in UNREADABLE:
                raise BadInput(f"{entry.name} cannot be read as plain values: {FLAG_TEXT[flag]}")
        storage = self._checkpoint.storages.get(entry.storage)
        if "://" in self._checkpoint.path:
            raise BadInput(f"{self._checkpoint.path} is not on this machine", "download it first: values are read")
        if storage is None or not storage.located:
            raise BadInput(f"{entry.name} cannot be read: its bytes have no fixed place in the file")
        return storage

    def _bytes(self, storage: StorageEntry, offset: int, length: int) -> bytes:
        if storage.located == "held":
            return storage.data[offset : offset + length]
        source = self._open(storage.file)
        if storage.located == "data":
            return source.read(storage.position + offset, length)
        if storage.located == "text":
            return _latin1(source, storage)[offset : offset + length]
        start, packed = member_data(source, storage)
        if storage.located == "zip-stored":
            return source.read(start + offset, length)
        return self._inflated(source, storage, start, packed, offset).read(offset, length)

    def _inflated(self, source: ByteSource, storage: StorageEntry, start: int, packed: int, offset: int) -> Inflated:
        """The deflated storage, read on from where the last read of it ended unless that lies further back."""
        if self._inflating is not None and self._inflating[0] is storage and self._inflating[1].reached <= offset:
            return self._inflating[1]
        self._inflating = storage, Inflated(source, start, packed, storage.length, max(storage.length, 1))
        return self._inflating[1]

    def _open(self, path: str) -> FileSource:
        if path not in self._files:
            self._files[path] = FileSource(path)
        return self._files[path]

    def close(self) -> None:
        """Close every file."""
        for source in self._files.values():
            source.close()
        self._inflating = None
        self._files.clear()

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _latin1(source: ByteSource, storage: StorageEntry) -> bytes:
    """The bytes that Python 3 wrote as text, since the pickle's protocol had no bytes."""
    try:
        found = source.read(storage.position, storage.packed).decode("utf-8").encode("latin-1")
    except UnicodeError:
        raise BadInput(
            f"{storage.key} of {source.name} is a text that stands for no bytes", "the file is damaged"
        ) from None
    if len(found) != storage.length:
        raise BadInput(f"{storage.key} of {source.name} has {len(found):,} bytes instead of {storage.length:,}")
    return found


def member_data(source: ByteSource, storage: StorageEntry) -> tuple[int, int]:
    """Where the data of a zip member begin behind its local header, and an upper bound of its packed length."""
    raw = source.read(storage.position, _LOCAL_HEADER.size)
    if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\3\4":
        raise BadInput(f"{source.name} has no local header where its directory says: {storage.key}")
    named, extra = _LOCAL_HEADER.unpack(raw)[-2:]
    start = storage.position + _LOCAL_HEADER.size + named + extra
    return start, source.size - start


def _extent(entry: TensorEntry, item: int) -> tuple[int, int]:
    """The first byte and the byte behind the last that a view touches."""
    if not entry.numel:
        return 0, 0
    reach = sum((dim - 1) * step for dim, step in zip(entry.shape, entry.strides or (), strict=True))
    return entry.offset, entry.offset + (reach + 1) * item
