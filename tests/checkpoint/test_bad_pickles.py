"""Malformed and hostile pickles: what the reader says to them. Numbered as in the project's list of cases.

Every case must end in one ProbeError or in a listing that says what is wrong; nothing may run, hang or grow.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import ProbeError
from tests.checkpoint.hostile import Evil, legacy_bytes, said
from tests.checkpoint.seeds import torch_zip

Open = Callable[[bytes], Checkpoint]
Refused = Callable[[bytes], str]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02", b"\x80\x02N", b"\x80\x02.", b"\x80\x02\xff.", b"\x80\x02h\x05.", b"\x80\x020.", b"\x80\x02t.",
        b"\x80\x02(((.", b"\x80\x02}(K\x01u.", b"\x80\x02]l.", b"\x80\x09N.", b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b".", b"\x80\x04\x95" + b"\xff" * 8, b"\x80\x02Ixyz\n.", b"\x80\x02S'a\n.",
        b"\x80\x02X\x01\0\0\0\xff.", b"(dp0\nS'a'\np1\n", b"\x80\x02T\xff\xff\xff\xff.",
        b"\x80\x02\x8b\xff\xff\xff\xff.",
    ],
)  # fmt: skip
def test_27_28_32_34_broken_pickles(data: bytes, opened: Open) -> None:
    with suppress(ProbeError):
        assert opened(data).damaged


def test_27_garbage_after_stop(opened: Open) -> None:
    assert "5 bytes follow" in said(opened(pickle.dumps({"a": 1}) + b"12345"))


@pytest.mark.parametrize("protocol", range(6))
def test_29_30_nothing_runs(protocol: int, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    before = set(sys.modules)
    raw = pickle.dumps({"a": Evil(sentinel), "n": 1}, protocol)
    for name, data in (("bare", raw), ("zip", torch_zip(raw))):
        path = tmp_path / name
        path.write_bytes(data)
        found = open_checkpoint(path)
        assert any(entry.name == "system" and entry.called for entry in found.globals)
        result = scan(path)
        assert result.dangerous
        result.report()
        assert "would execute code" in str(summarize_weights(found).report())
    assert not sentinel.exists()
    assert not {name for name in set(sys.modules) - before if not name.startswith("modelprobe.")}


def test_31_every_way_to_name_a_global(opened: Open) -> None:
    ways = {
        b"(S'id'\nios\nsystem\n.": "os.system",  # INST
        b"(cos\nsystem\nS'id'\no.": "os.system",  # OBJ
        b"\x80\x02\x82\x05.": "copyreg extension.5",
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93.": "os.system",
        b"\x80\x04h\0\x93.": None,
        b"\x80\x04\x8c\x02osK\x01\x93.": "os.?",
    }
    for data, spelled in ways.items():
        try:
            found = opened(data)
        except ProbeError:
            assert spelled is None
            continue
        assert [entry.spelled for entry in found.globals] == [spelled]


def test_33_nested_pickles_are_scanned(tmp_path: Path) -> None:
    inner = pickle.dumps(Evil(tmp_path / "sentinel"), 2)
    for depth in range(3):
        path = tmp_path / f"nested{depth}"
        path.write_bytes(pickle.dumps({"payload": inner}, 4))
        assert scan(path).dangerous
        inner = path.read_bytes()
    assert not (tmp_path / "sentinel").exists()


def test_34_no_memory_by_declared_sizes(opened: Open) -> None:
    def call(module: bytes, name: bytes, number: int) -> bytes:
        return b"\x80\x02c" + module + b"\n" + name + b"\n\x8a\x08" + struct.pack("<q", number) + b"\x85R."

    for data in (
        call(b"__builtin__", b"bytearray", 2**31),
        call(b"torch", b"FloatTensor", 10**12),
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02" + b"N" + b"".join(b"r" + struct.pack("<I", index * 99991) for index in range(2000)) + b".",
    ):
        assert not opened(data).tensors


@pytest.mark.zoo
def test_35_deep_nesting(opened: Open) -> None:
    for data in (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", b"\x80\x02)" + b"\x85" * 200_000 + b"."):
        assert "deep" in said(opened(data))


def test_36_self_reference(opened: Open) -> None:
    loop: dict[str, object] = {"n": 1}
    loop["self"] = loop
    found = opened(pickle.dumps(loop))
    assert found.tree.child("self").kind == "same"


def test_37_billion_laughs(opened: Open) -> None:
    data = b"\x80\x02]q\0" + b"".join(
        b"]q" + bytes([n + 1]) + b"(" + b"h" + bytes([n]) + (b"h" + bytes([n])) * 9 + b"e" for n in range(60)
    )
    opened(data + b".")


def tensor_pickle(shape: str, stride: str, offset: str = "K\0", key: bytes = b"0", numel: bytes = b"K\6") -> bytes:
    """A state dict with one tensor whose numbers are opcodes of one's own choice."""
    pid = (
        b"(X\7\0\0\0storagectorch\nFloatStorage\nX"
        + struct.pack("<I", len(key))
        + key
        + b"X\3\0\0\0cpu"
        + numel
        + b"tQ"
    )
    view = pid + offset.encode("latin-1") + shape.encode("latin-1") + stride.encode("latin-1") + b"\x89N"
    return b"\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."


BIG = "\x8a\x1a" + (10**60).to_bytes(26, "little", signed=True).decode("latin-1")
MINUS = "J\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "flag"),
    [
        (f"({BIG}t", "(K\1t", "K\0", "impossible-shape"),
        (f"({MINUS}t", "(K\1t", "K\0", "impossible-shape"),
        ("(\x8a\x05\0\0\0\0\x7f\x8a\x05\0\0\0\0\x7ft", "(K\0K\0t", "K\0", "impossible-shape"),
        ("(\x8a\x08\0\0\0\0\0\0\0\x10t", "(K\0t", "K\0", "impossible-shape"),  # 2**60 elements at stride 0
        ("(K\7t", "(K\1t", "K\0", "beyond-storage"),
        ("(K\2K\3t", "(K\3K\1t", "K\1", "beyond-storage"),
        ("(K\2t", f"({MINUS}t", "K\5", "negative-view"),
        ("(K\2t", "(K\1t", MINUS, "negative-view"),
        ("(K\2K\3t", "(K\3t", "K\0", "impossible-shape"),
    ],
)
def test_38_39_impossible_tensors(shape: str, stride: str, offset: str, flag: str, opened: Open) -> None:
    found = opened(torch_zip(tensor_pickle(shape, stride, offset), {"a/data/0": b"\0" * 24}))
    assert flag in found.tensors[0].flags
    assert found.damaged


def test_39_numel_against_the_record(opened: Open) -> None:
    for length, flag in ((20, "short-storage"), (28, "long-storage")):
        found = opened(torch_zip(tensor_pickle("(K\6t", "(K\1t"), {"a/data/0": b"\0" * length}))
        assert flag in found.tensors[0].flags


def test_40_storage_keys(opened: Open) -> None:
    found = opened(torch_zip(tensor_pickle("(K\6t", "(K\1t")))
    assert "missing-storage" in found.tensors[0].flags
    found = opened(torch_zip(tensor_pickle("(K\6t", "(K\1t", key=b"../0"), {"a/0": b"\0" * 24}))
    assert found.damaged


def test_41_43_odd_keys(opened: Open) -> None:
    odd = {
        1: 1,
        None: 2,
        b"x": 3,
        (1, 2): 4,
        "": 5,
        "k" * 1_000_000: 6,
        1.5: 7,
        int: 8,
        frozenset({1}): 9,
        "\x1b[31m": 10,
    }
    assert len(opened(pickle.dumps(odd, 4)).tree.children) == len(odd)
    found = opened(pickle.dumps({"\ud800": torch_free(), "[red]": 1}, 4))
    json.dumps(summarize_weights(found).to_dict())


def torch_free() -> list[int]:
    return [1, 2]


def test_42_duplicate_keys(opened: Open) -> None:
    found = opened(b"\x80\x02}(X\1\0\0\0aK\1X\1\0\0\0aK\2u.")
    assert "more than once" in said(found)
    assert found.tree.child("a").value == 2


@pytest.mark.parametrize("root", [[1, 2, 3], 5, "text", None, (1,), {"a": 1}])
def test_44_roots_without_tensors(root: object, opened: Open) -> None:
    assert "the file holds no tensors" in said(opened(pickle.dumps(root, 4)))


def test_45_odd_modules(opened: Open) -> None:
    def module(parameters: bytes, modules: bytes) -> bytes:
        state = b"}(X\x0b\0\0\0_parameters" + parameters + b"X\x08\0\0\0_modules" + modules + b"u"
        return b"\x80\x02cm\nNet\n)\x81q\1" + state + b"b."

    opened(module(b"K\1", b"}"))
    opened(module(b"}", b"}X\1\0\0\0ah\1s"))  # a module inside itself
    opened(module(b"}", b"K\1"))


def test_46_python2(opened: Open) -> None:
    data = b"\x80\x02ccollections\nOrderedDict\n]q\0]q\1(U\1aK\1ea\x85R."
    assert opened(data).tree.child("a").value == 1


def test_47_legacy_lengths(opened: Open, refused: Refused) -> None:
    data = legacy_bytes()
    found = opened(data[:-8])
    assert "8 bytes are missing" in said(found)
    assert found.damaged
    assert "3 bytes follow" in said(opened(data + b"abc"))
    for length in range(1, 300, 7):
        with suppress(ProbeError):
            assert opened(data[:length]).damaged
