"""A state dict as a torch zip: a pickle with one reference per storage, then the storages, each in turn.

The pickle is the one that `torch.save` would write, made from placeholders: no tensor is in memory while it is made.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import IO, Any

from modelprobe.checkpoint.dtypes import BITS, STORAGE_CLASSES
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.pickle.scalars import spelled_keys
from modelprobe.checkpoint.write.plan import FilePlan, WrittenTensor, write_tensor
from modelprobe.checkpoint.write.tensor import TensorToWrite, raw_pieces
from modelprobe.errors import BadInput

ROOT = "archive"
ALIGNMENT = 64
LOCAL_HEADER = 30
ZIP64_EXTRA = 20
ZIP64_FROM = (1 << 31) - 1

CLASSES = {dtype: name for name, dtype in reversed(STORAGE_CLASSES.items()) if not name.startswith(("Q", "U"))}
"""The storage class of a dtype; those without one stand in an untyped storage, with the dtype beside it."""


class StatePlace:
    """Stands for the state dict among the other entries of a file; `others` are values in it that are no tensors."""

    def __init__(self, others: Mapping[Any, Any] | None = None) -> None:
        self.others = others or {}


STATE_PLACE = StatePlace()


class _Storage:
    """Stands for a storage in the pickle: torch's own tuple is written in its place."""

    def __init__(self, cls: Any, key: str, count: int) -> None:
        self.identity = ("storage", cls, key, "cpu", count)


class TorchPlan(FilePlan):
    """The pickle and the storages of a file."""

    def __init__(self, tensors: Sequence[TensorToWrite], extras: Any, versions: Mapping[str, Any] | None) -> None:
        state: OrderedDict[str, Any] = OrderedDict((tensor.name, tensor) for tensor in tensors)
        if versions is not None:
            state._metadata = versions  # type: ignore[attr-defined]  # as Module.state_dict() leaves it
        self._root = _with_state(extras, state)
        self.storages: dict[str, TensorToWrite] = {}
        self._keys: dict[int, str] = {}
        expected, labels = [], dict[str, tuple[str, TensorToWrite]]()
        for path, tensor in tensors_in(self._root):
            key = self._key(tensor, labels)
            self._keys[id(tensor)] = key
            expected.append(WrittenTensor(path, tensor.shape, tensor.dtype, key))
        self._pickle = self._pickled()
        nbytes = sum(tensor.nbytes for tensor in self.storages.values())
        tied = len(expected) - len(self.storages)
        notes = (f"{tied:,} tensors share the storage of another, as in the source",) if tied else ()
        super().__init__(tuple(expected), nbytes + 400 * len(self.storages) + len(self._pickle) + 4096, notes)

    def _key(self, tensor: TensorToWrite, labels: dict[str, tuple[str, TensorToWrite]]) -> str:
        if BITS.get(tensor.dtype, 0) % 8 or tensor.dtype not in BITS or tensor.dtype[0] == "q":
            raise BadInput(f"{tensor.name} cannot be written: {tensor.dtype} is not a plain type of elements")
        key = str(len(self.storages))
        if tensor.shares is not None:
            key, first = labels.setdefault(tensor.shares, (key, tensor))
            if (first.shape, first.dtype) != (tensor.shape, tensor.dtype):
                raise BadInput(f"{tensor.name} and {first.name} are tied but not of one shape and dtype")
        self.storages.setdefault(key, tensor)
        return key

    def _pickled(self) -> bytes:
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, self._keys).dump(self._root)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(f"the other entries cannot be written: {error}") from None
        return buffer.getvalue()

    def emit(self, file: IO[bytes]) -> dict[str, bytes]:
        """Write everything; the digest of each storage."""
        digests = {}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _small(archive, "data.pkl", self._pickle)
            _small(archive, "byteorder", sys.byteorder.encode())
            for key, tensor in self.storages.items():
                with archive.open(_aligned_member(file, f"{ROOT}/data/{key}", tensor.nbytes), "w") as member:
                    digests[key] = write_tensor(tensor, raw_pieces(tensor, in_memory_order=True), member.write)
            _small(archive, "version", b"3\n")
            name = blake2b(b"".join(digests.values()), digest_size=20).hexdigest()
            _small(archive, ".data/serialization_id", str(int(name, 16) % 10**40).zfill(40).encode())
        return digests


class _Pickler(pickle.Pickler):
    """Writes tensors and storages as torch does. Protocol 2, as torch's own."""

    def __init__(self, file: IO[bytes], keys: Mapping[int, str]) -> None:
        super().__init__(file, protocol=2)
        self._keys = keys

    def persistent_id(self, value: Any) -> Any:
        return value.identity if type(value) is _Storage else None

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not TensorToWrite:
            return NotImplemented
        import torch
        from torch._utils import _rebuild_tensor_v2, _rebuild_tensor_v3

        strides = packed_strides(value.shape) if value.strides is None else value.strides
        key, name = self._keys[id(value)], CLASSES.get(value.dtype)
        if name is not None:
            storage = _Storage(getattr(torch, name), key, value.numel)
            return _rebuild_tensor_v2, (storage, 0, value.shape, strides, False, OrderedDict())
        storage = _Storage(torch.UntypedStorage, key, value.nbytes)
        dtype = getattr(torch, value.dtype)
        return _rebuild_tensor_v3, (storage, 0, value.shape, strides, False, OrderedDict(), dtype)


def _with_state(extras: Any, state: OrderedDict[str, Any]) -> Any:
    """The other entries with the state dict in its place."""
    if isinstance(extras, StatePlace):
        clash = next((key for key in extras.others if key in state), None)
        if clash is not None:
            raise BadInput(f"a tensor and another value would both be called {clash}")
        return _with(state, extras.others)
    if not isinstance(extras, dict) or not _holds(extras, set()):
        return extras
    made: Any = copy.copy(extras)  # an OrderedDict keeps its attributes
    for key, value in extras.items():
        made[key] = _with_state(value, state)
    return made


def _with(state: OrderedDict[str, Any], others: Mapping[Any, Any]) -> Any:
    made: Any = copy.copy(state)
    made.update(others)
    return made


def _holds(extras: Any, seen: set[int]) -> bool:
    """Whether the place of the state dict lies in here; it stands in dictionaries only."""
    if not isinstance(extras, dict) or id(extras) in seen:
        return isinstance(extras, StatePlace)
    seen.add(id(extras))
    return any(_holds(value, seen) for value in extras.values())


def tensors_in(root: Any) -> Iterator[tuple[tuple[str, ...], TensorToWrite]]:
    """The tensors under a root with their places, in the order in which a reader meets them; each container once."""
    seen: set[int] = set()
    stack: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, TensorToWrite):
            yield path, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.values() if isinstance(value, dict) else value
            keys = spelled_keys(list(value)) if isinstance(value, dict) else map(str, range(len(value)))
            stack.extend(reversed([((*path, key), item) for key, item in zip(keys, items, strict=True)]))


def _small(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), data)


def _aligned_member(file: IO[bytes], name: str, size: int) -> zipfile.ZipInfo:
    """A member whose data begin at a multiple of 64 bytes, as torch's own do: they can be mapped."""
    info = zipfile.ZipInfo(name)
    info.file_size = size
    fixed = LOCAL_HEADER + len(name) + 4 + (ZIP64_EXTRA if size * 1.05 > ZIP64_FROM else 0)
    spare = -(file.tell() + fixed) % ALIGNMENT
    info.extra = b"FB" + spare.to_bytes(2, "little") + b"Z" * spare
    return info
