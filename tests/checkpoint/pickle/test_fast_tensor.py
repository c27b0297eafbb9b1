"""A tensor's record read in one go gives what its opcodes give one by one, also when the record is forged."""

from __future__ import annotations

import gc
import io
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.open import gc_paused, open_checkpoint
from modelprobe.checkpoint.pickle import opcodes
from modelprobe.checkpoint.pickle.fast_tensor import read_record
from modelprobe.checkpoint.pickle.nodes import (
    Blob,
    Dict,
    Global,
    Opaque,
    PendingCall,
    PersistentId,
    PickleNode,
    SetNode,
    TensorRecord,
)
from modelprobe.checkpoint.pickle.reader import BrokenPickle, Pickled, read_pickle
from modelprobe.checkpoint.records import StorageEntry, TensorEntry, new_storage, new_tensor


class Bytes:
    """A pickle in memory as a source."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.name, self.origin = data, len(data), "it", 0

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


class Pickler(pickle.Pickler):
    """Writes a state dict as torch.save does, with the storages left out."""

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.UntypedStorage | torch.TypedStorage):
            return None
        kind = (
            getattr(torch, value.pickle_storage_type())
            if isinstance(value, torch.TypedStorage)
            else torch.UntypedStorage
        )
        return ("storage", kind, str(self.number()), "cpu", value.size(), *self.extra)

    def number(self) -> int:
        self.count = getattr(self, "count", -1) + 1
        return self.count

    extra: tuple[object, ...] = ()


def state(count: int = 150) -> OrderedDict[str, object]:
    """Enough tensors to need indices of four bytes, of every number of dimensions."""
    made: OrderedDict[str, object] = OrderedDict()
    for n in range(count):
        shape = [(), (n,), (1, 300), (2, 1, 3), (1, 2, 1, 2), (1, 1, 1, 1, 2)][n % 6]
        made[f"layer{n}.weight"] = torch.zeros(shape, dtype=[torch.float32, torch.int64][n % 2])
        made[f"layer{n}.part"] = torch.zeros(70_000)[n : n + 300 : 2]
    made["again"] = made["layer1.weight"]
    return made


def pickled(value: object, extra: tuple[object, ...] = (), protocol: int = 2) -> bytes:
    out = io.BytesIO()
    pickler = Pickler(out, protocol=protocol)
    pickler.extra = extra
    pickler.dump(value)
    return out.getvalue()


def shown(node: PickleNode, seen: dict[int, int]) -> object:
    """A node as plain values, with the same number for the same object: sharing must be the same, too."""
    if node is None or type(node) in (bool, int, float, str):
        return type(node).__name__, node
    if id(node) in seen:
        return "seen", seen[id(node)]
    if node != ():  # of which Python has one
        seen[id(node)] = len(seen)
    if type(node) is PendingCall:
        parts = (node.func, node.args, node.kwargs, node.state, node.pairs, node.items)
        return "call", [shown(part, seen) for part in parts]
    if type(node) is Global:
        return node.module, node.name, node.count, node.called
    if type(node) is PersistentId:
        return "persistent", shown(node.value, seen)
    if type(node) in (list, tuple):
        return type(node).__name__, [shown(item, seen) for item in node]
    if type(node) is Dict:
        return "dict", [shown(item, seen) for item in node.pairs]
    if type(node) is SetNode:
        return "set", [shown(item, seen) for item in node.items]
    assert type(node) in (Blob, Opaque)
    return type(node).__name__, getattr(node, "length", 0)


def outcome(data: bytes) -> object:
    """All that reading a pickle gives, or what it is refused with."""
    try:
        found: Pickled = read_pickle(Bytes(data))
    except BrokenPickle as error:
        return "refused", sorted((g.module, g.name, g.count, g.called) for g in error.globals)
    persistent = [value.nodes()[1] if type(value) is TensorRecord else value for value in found.persistent]
    told = sorted((g.module, g.name, g.count, g.called) for g in found.globals)
    seen: dict[int, int] = {}
    return shown(found.root, seen), shown(persistent, seen), told, found.end, sorted(found.findings)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], tuple[object, object, int]]:
    """Read a pickle in both ways; also, how many records were read in one go."""

    def read(data: bytes) -> tuple[object, object, int]:
        taken = []
        monkeypatch.setattr(opcodes, "read_record", lambda m: taken.append(read_record(m)) or taken[-1])
        fast = outcome(data)
        monkeypatch.setattr(opcodes, "read_record", lambda m: False)
        return fast, outcome(data), sum(taken)

    return read


Both = Callable[[bytes], tuple[object, object, int]]


@pytest.mark.parametrize("extra", [(), (None,)])
def test_the_same_nodes(extra: tuple[object, ...], both: Both) -> None:
    fast, slow, taken = both(pickled(state(), extra))
    assert fast == slow
    assert taken > 250  # of 300; the first ones have indices of one byte


def test_parts_that_are_referred_to_later(both: Both) -> None:
    """A size, a key or the hooks of a record may be used again by what follows."""
    value = state(60)
    data = pickled(value).removesuffix(b".")
    puts = [int.from_bytes(data[at + 1 : at + 5], "little") for at in range(len(data)) if data[at : at + 1] == b"r"]
    last = max(put for put in puts if put < 1000)
    for index in range(last - 9, last + 1):
        again = data + b"0" + b"(j" + index.to_bytes(4, "little") + b"j" + index.to_bytes(4, "little") + b"t."
        fast, slow, _ = both(again)
        assert fast == slow
        assert fast[0] != "refused"


@pytest.mark.zoo
def test_forged_records(both: Both) -> None:
    """One to four bytes changed at random: the same nodes or the same refusal."""
    data, chance, taken = pickled(state(60)), random.Random(0), 0
    for _ in range(400):
        forged = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(2_000, len(data))
            forged[at] = chance.choice((chance.randrange(256), *b"rhjKMJt(\x85\x86)RQ\x88\x89N"))
        fast, slow, count = both(bytes(forged))
        assert fast == slow
        taken += count
    assert taken > 10_000


@pytest.mark.zoo
def test_memory_written_over(both: Both) -> None:
    """An index that is used again means another object from then on."""
    data = pickled(state(60))
    at = data.index(b"X", len(data) // 2)
    for index in range(12):
        forged = data[:at] + b"X\x05\0\0\0other" + b"r" + index.to_bytes(4, "little") + b"0" + data[at:]
        fast, slow, _ = both(forged)
        assert fast == slow


@pytest.mark.zoo
def test_files_are_listed_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for legacy in (False, True):
        torch.save(state(), tmp_path / "m", _use_new_zipfile_serialization=not legacy)
        fast = open_checkpoint(tmp_path / "m")
        with monkeypatch.context() as patch:
            patch.setattr(opcodes, "read_record", lambda m: False)
            slow = open_checkpoint(tmp_path / "m")
        assert (fast.tensors, fast.storages, fast.tree) == (slow.tensors, slow.storages, slow.tree)


def test_entries_filled_quickly_are_frozen_all_the_same() -> None:
    made = new_tensor(path=("a",), shape=(2,), dtype="float32")
    assert made == TensorEntry(("a",), (2,), "float32")
    assert type(made) is TensorEntry
    assert hash(made) == hash(replace(made))
    with pytest.raises(FrozenInstanceError):
        made.dtype = "int64"
    assert new_storage("0", 4) == StorageEntry("0", 4)


def test_collection_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with suppress(KeyError), gc_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with gc_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
