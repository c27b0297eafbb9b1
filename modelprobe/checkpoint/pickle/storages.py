"""The storages that a pickle refers to, and where their bytes lie; filled while its tensors are listed."""

from __future__ import annotations

from collections.abc import Callable

from modelprobe.checkpoint.bytes.source import Inflated, Span
from modelprobe.checkpoint.dtypes import STORAGE_CLASSES, tensor_bytes
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import Blob, Global, PendingCall, PersistentId, PickleNode, called, last_part
from modelprobe.checkpoint.pickle.reader import read_pickle
from modelprobe.checkpoint.records import StorageEntry
from modelprobe.errors import ProbeError

Locate = Callable[[str], "StorageEntry | None"]
StorageReference = tuple[str, str, str]
"""Key, dtype and device of a storage."""

NOWHERE: StorageReference = ("", "", "")


class StorageTable:
    """The storages met so far, by key, with what is wrong about each. `locate` finds the bytes of a key."""

    def __init__(self, locate: Locate, limits: ReadLimits, prefix: str = "") -> None:
        self.storages: dict[str, StorageEntry] = {}
        self.flags: dict[str, list[str]] = {}
        self.limits = limits
        self.prefix = prefix  # tells the storages of one file from those of another
        self.nested = 0
        self.depth = 0  # of the rebuild calls being read
        self._locate = locate
        self._seen: dict[str, tuple[str, int]] = {}
        self._nested: dict[int, StorageReference] = {}

    def length(self, key: str) -> int:
        """Bytes of a storage, 0 when it is not there."""
        found = self.storages.get(key)
        return found.length if found else 0

    def storage(self, node: PickleNode) -> StorageReference:
        """The storage that a persistent id, or a nested file, stands for."""
        if type(node) is PendingCall:
            return self._nested_file(node) if last_part(called(node)) == "_load_from_bytes" else NOWHERE
        value = node.value if type(node) is PersistentId else None
        if type(value) is not tuple or len(value) < 5 or value[0] != "storage":
            return NOWHERE
        return self.named(*value[1:5])

    def named(self, kind: PickleNode, key: PickleNode, device: PickleNode, numel: PickleNode) -> StorageReference:
        """The storage with this class, key, device and number of elements."""
        dtype = STORAGE_CLASSES.get(kind.name, "") if type(kind) is Global else ""
        if type(key) is not str:
            key = str(key) if type(key) is int else "?"
        self._note(key, dtype, numel)
        return self.prefix + key, dtype, device if type(device) is str else ""

    def _note(self, key: str, dtype: str, numel: PickleNode) -> None:
        """Look a storage up once, and compare every later mention with the first."""
        count = numel if type(numel) is int and 0 <= numel < 1 << 60 else -1
        before = self._seen.get(key)
        if before is not None:
            if before != (dtype, count):
                self._flag(key, "two-dtypes")
            return
        self._seen[key] = (dtype, count)
        found = self._locate(key)
        if found is None:
            self._flag(key, "missing-storage")
            return
        self.storages[self.prefix + key] = found
        want = tensor_bytes(count, dtype)
        if not dtype:
            self._flag(key, "unknown-dtype")
        elif count < 0 or want > found.length:
            self._flag(key, "short-storage")
        elif want < found.length:
            self._flag(key, "long-storage")
        if not key.isdigit() and ("/" in key or "\\" in key or ".." in key):
            self._flag(key, "odd-storage-name")

    def _flag(self, key: str, flag: str) -> None:
        flags = self.flags.setdefault(self.prefix + key, [])
        if flag not in flags:
            flags.append(flag)

    def inline(self, data: PickleNode, nbytes: int) -> str:
        """A storage whose bytes stand in the pickle itself: as bytes or, in protocols below 3, as Latin-1 text.

        How long a text is that was too long to keep shows only when it is read: `nbytes` are believed until then.
        """
        key = f"{self.prefix}inline:{len(self.storages)}"
        if type(data) is Blob:
            origin = data.feed.origin if data.feed is not None else None
            name = data.feed.name if data.feed is not None else ""
            held = data.data or b"" if origin is None and data.kind == "bytes" else b""
            text = data.kind == "str"
            located = ("held" if held else "") if origin is None else "text" if text else "data"
            length, packed = (min(nbytes, data.length), data.length) if text else (data.length, 0)
            place = (origin or 0) + data.offset
            self.storages[key] = StorageEntry(key, length, name, place, located, None, packed, held)
            return key
        if type(data) is str:
            try:
                held = data.encode("latin-1")
            except UnicodeEncodeError:
                return ""
            self.storages[key] = StorageEntry(key, len(held), located="held", data=held)
            return key
        return ""

    def _nested_file(self, call: PendingCall) -> StorageReference:
        """A storage as plain pickle keeps it: a whole legacy file inside a bytes object."""
        blob = call.args[0] if type(call.args) is tuple and call.args else None
        if type(blob) is not Blob:
            return NOWHERE
        known = self._nested.get(id(blob))
        if known is None:
            self.nested += 1
            try:
                known = self._read_nested(blob)
            except ProbeError:
                known = NOWHERE
            self._nested[id(blob)] = known
        return known

    def _read_nested(self, blob: Blob) -> StorageReference:
        if blob.feed is None or isinstance(blob.feed, Inflated):
            return NOWHERE
        span = Span(blob.feed, blob.offset, blob.length)
        at, roots = 0, []
        for _ in range(5):  # magic, protocol, system, the storage, the keys
            part = read_pickle(span, at, self.limits)
            at = part.end
            roots.append(part.root)
        value = roots[3].value if type(roots[3]) is PersistentId else None
        if type(value) is not tuple or len(value) < 5 or type(value[1]) is not Global or type(value[4]) is not int:
            return NOWHERE
        dtype = STORAGE_CLASSES.get(value[1].name, "")
        key = f"{self.prefix}nested:{len(self.storages)}"
        located = "" if span.origin is None else "data"
        self.storages[key] = StorageEntry(key, span.size - at - 8, span.name, (span.origin or 0) + at + 8, located)
        if span.size - at - 8 != tensor_bytes(value[4], dtype):
            self.flags[key] = ["short-storage"]
        return key, dtype, value[3] if type(value[3]) is str else ""
