"""What does the reader say to malformed and hostile files? Numbered as in the list of cases that the project keeps.

Every case must end in one ProbeError or in a listing that says what is wrong; nothing may run, hang or grow.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from modelprobe.analyzers.scan import scan
from modelprobe.analyzers.weights import summarize_weights
from modelprobe.checkpoints.entries import Checkpoint
from modelprobe.checkpoints.limits import Limits
from modelprobe.checkpoints.reader import open_checkpoint
from modelprobe.errors import BadInput, ProbeError
from tests.checkpoints.seeds import gguf, npy, onnx, torch_zip, unzip, zipped

Open = Callable[[bytes], Checkpoint]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Write bytes to a file, open it, and build its whole report."""

    def go(data: bytes) -> Checkpoint:
        path = tmp_path / "file"
        path.write_bytes(data)
        found = open_checkpoint(path)
        summarize_weights(found).report()
        return found

    return go


@pytest.fixture
def refused(opened: Open) -> Callable[[bytes], str]:
    """The one line that a file is refused with."""

    def go(data: bytes) -> str:
        with pytest.raises(ProbeError) as caught:
            opened(data)
        assert "\n" not in caught.value.message
        return caught.value.message

    return go


Refused = Callable[[bytes], str]


def said(found: Checkpoint) -> str:
    return " ".join(finding.text for finding in found.findings)


def state_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2, 3), "b": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def legacy_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2, 3), "b": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def rezipped(change: Callable[[dict[str, bytes]], object], **options: int) -> bytes:
    members = unzip(state_bytes())
    change(members)
    return zipped(members, **options)


# Container


def test_01_empty(refused: Refused) -> None:
    assert "empty file" in refused(b"")


def test_02_four_bytes_of_zip(refused: Refused) -> None:
    assert "truncated zip" in refused(b"PK\3\4")


def test_03_zip_cut_anywhere(refused: Refused) -> None:
    data = state_bytes()
    for length in [*range(1, 60), *range(60, len(data), 41), len(data) - 1]:
        assert refused(data[:length])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "Git LFS"),  # 4
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),  # 5
        (b'{"error": "Repository not found"}', "error message of a server"),  # 5
        (b"\x1f\x8b\x08\x00", "gzip"),  # 6
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"import site\n", "text file"),
        (b"\0" * 4096, "zeros"),
    ],
)
def test_04_to_06_named_with_the_fix(data: bytes, words: str, refused: Refused) -> None:
    assert words in refused(data)


def test_06_a_tar_that_says_pth(refused: Refused) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    assert "tar archive" in refused(buffer.getvalue())


def test_07_not_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for path, what in ((tmp_path / "fifo", "FIFO"), (tmp_path / "socket", "socket"), (Path("/dev/zero"), "device")):
            with pytest.raises(BadInput, match=what):
                open_checkpoint(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="directory without"):
        open_checkpoint(tmp_path / "empty")


def test_08_links_and_names(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("loop", "dangling", "missing", "nul\0", "x" * 300, "\udcff"):
        with pytest.raises(BadInput):
            open_checkpoint(tmp_path / name if "\0" not in name else name)


def test_09_zip_that_is_no_checkpoint(refused: Refused) -> None:
    assert "without members" in refused(zipped({}))
    assert "Office document" in refused(zipped({"[Content_Types].xml": b"<x/>"}))
    assert "without data.pkl" in refused(zipped({"a/b.txt": b"x"}))


def test_10_roots(refused: Refused, opened: Open) -> None:
    members = unzip(state_bytes())
    assert "not where torch looks" in refused(zipped({"other/x": b"", **members}))
    assert "not where torch looks" in refused(zipped({name.partition("/")[2]: data for name, data in members.items()}))
    assert "outside" in said(opened(zipped({**members, "other/x": b"1"})))


def test_11_duplicates(refused: Refused) -> None:
    def twice(name: str) -> bytes:
        members = unzip(state_bytes())
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(name, b"again")
        return buffer.getvalue()

    first = next(iter(unzip(state_bytes())))
    root = first.partition("/")[0]
    for name in (f"{root}/data.pkl", f"{root}/data/0"):
        assert "ambiguous" in refused(twice(name))


def test_12_names_that_differ_in_case(refused: Refused) -> None:
    assert "case only" in refused(torch_zip(pickle.dumps({}), {"a/DATA.pkl": b"x"}))


def test_13_member_names_that_point_elsewhere(opened: Open) -> None:
    for name in ("../../x", "/etc/x", "C:\\x", "a/../../x"):
        found = opened(torch_zip(pickle.dumps({"n": 1}), {name: b"x"}))
        assert "point outside" in said(found)
        assert found.damaged


def test_14_local_header_with_another_name(opened: Open) -> None:
    data = bytearray(state_bytes())
    at = data.index(b"data.pkl")
    data[at : at + 8] = b"date.pkl"
    assert "differently" in said(opened(bytes(data)))


def test_15_wrong_checksum(opened: Open) -> None:
    data = bytearray(state_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 16] ^= 1  # the first member is data.pkl
    found = opened(bytes(data))
    assert "checksum" in said(found)
    assert found.damaged


def test_17_encrypted(refused: Refused) -> None:
    data = bytearray(state_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    assert "encrypted" in refused(bytes(data))


def test_18_junk_around_a_zip(opened: Open, refused: Refused) -> None:
    assert refused(b"junk" + state_bytes())
    assert "4 bytes follow" in said(opened(state_bytes() + b"junk"))


def test_19_legacy_pickle_with_a_zip_behind(opened: Open) -> None:
    found = opened(legacy_bytes() + state_bytes())
    assert found.format == "torch legacy"
    assert "zip archive" in said(found)
    assert found.damaged


def test_20_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(torch_zip(b"\x80\x02" + b"N0" * 40_000_000 + b"N.", method=zipfile.ZIP_DEFLATED))
    started = time.process_time()
    with pytest.raises(BadInput, match=r"longer|inflates|instructions"):
        open_checkpoint(path, Limits(pickle_bytes=8 << 20))
    assert time.process_time() - started < 10


def test_21_deflated_storages(opened: Open) -> None:
    found = opened(rezipped(lambda members: None, method=zipfile.ZIP_DEFLATED))
    assert [entry.name for entry in found.tensors] == ["w", "b"]
    assert {storage.located for storage in found.storages.values()} == {"zip-deflated"}


def test_22_other_methods(refused: Refused) -> None:
    for method, name in ((zipfile.ZIP_LZMA, "lzma"), (zipfile.ZIP_BZIP2, "bzip2")):
        assert name in refused(rezipped(lambda members: None, method=method))


def test_23_lies_about_sizes(refused: Refused, opened: Open) -> None:
    data = bytearray(state_bytes())
    end = data.rindex(b"PK\5\6")
    data[end + 8 : end + 12] = struct.pack("<HH", 60000, 60000)
    assert "announces" in said(opened(bytes(data)))
    directory = data.index(b"PK\1\2")
    data[directory + 20 : directory + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    assert refused(bytes(data))


def test_24_many_entries(opened: Open) -> None:
    names = {f"a/data/{index}": b"" for index in range(20_000)}
    assert opened(torch_zip(pickle.dumps({}), names)).format == "torch zip"


def test_25_overlap(refused: Refused) -> None:
    data = bytearray(state_bytes())
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    assert "overlap" in refused(bytes(data))


@pytest.mark.parametrize("version", [None, b"abc", b"99999", b""])
def test_26_version(version: bytes | None, opened: Open) -> None:
    def change(members: dict[str, bytes]) -> None:
        for name in list(members):
            if name.endswith("/version"):
                members.pop(name)
                if version is not None:
                    members[name] = version

    found = opened(rezipped(change))
    assert "version" in said(found)
    assert found.damaged


@pytest.mark.parametrize("order", [b"big", b"\xff\xfe", b"middle"])
def test_26_byteorder(order: bytes, opened: Open) -> None:
    found = opened(rezipped(lambda members: members.update({"archive/byteorder": order})))
    assert len(found.tensors) == 2


# Pickle


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
    started = time.process_time()
    with suppress(ProbeError):
        assert opened(data).damaged
    assert time.process_time() - started < 1


def test_27_garbage_after_stop(opened: Open) -> None:
    assert "5 bytes follow" in said(opened(pickle.dumps({"a": 1}) + b"12345"))


class Evil:
    """Unpickling it would leave a file behind."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


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
        assert "would run code" in str(summarize_weights(found).report())
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
    started = time.process_time()
    opened(data + b".")
    assert time.process_time() - started < 2


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
    assert "no tensors were found" in said(opened(pickle.dumps(root, 4)))


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


# safetensors and shards


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: object = (2,), dtype: object = "F32", ends: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": ends}


@pytest.mark.parametrize("length", [0, 10**6, 2**63, 2**64 - 1])
def test_49_header_lengths(length: int, refused: Refused) -> None:
    assert refused(safetensors({"a": entry()}, b"\0" * 8, length))


def test_49_header_beyond_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(safetensors({"a": entry()}, b"\0" * 8))
    with pytest.raises(BadInput, match="at most"):
        open_checkpoint(path, Limits(header=16))


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": \xff}', b"\xef\xbb\xbf{}", b"{not json", b"[1]", b'{"a":1}\0\0', b'{"a":' + b"[" * 100_000,
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
    ],
)  # fmt: skip
def test_50_51_53_headers(header: bytes, refused: Refused) -> None:
    assert refused(safetensors(header, b"\0" * 8))


@pytest.mark.parametrize(
    "wrong",
    [
        entry(shape=[2, 2**64 - 2]), entry(shape=[2.0]), entry(shape=[True]), entry(shape=[-2]), entry(ends=[8, 0]),
        entry(ends=[0, 16]), entry(ends=[4, 12]), entry(dtype=1), entry(shape="2"), [], None, entry(ends=[0]),
    ],
)  # fmt: skip
def test_52_53_entries(wrong: object, refused: Refused) -> None:
    assert refused(safetensors({"a": wrong}, b"\0" * 8))


def test_52_overlap_and_holes(refused: Refused) -> None:
    assert "overlap" in refused(safetensors({"a": entry(), "b": entry(ends=(4, 12))}, b"\0" * 12))
    assert "gap" in refused(safetensors({"a": entry(), "b": entry(ends=(12, 20))}, b"\0" * 20))
    assert "belong to no tensor" in refused(safetensors({"a": entry()}, b"\0" * 9))
    assert "missing at the end" in refused(safetensors({"a": entry()}, b"\0" * 7))


def test_54_dtypes(opened: Open) -> None:
    found = opened(safetensors({"a": entry(dtype="F99")}, b"\0" * 8))
    assert "unknown-dtype" in found.tensors[0].flags
    found = opened(safetensors({"a": entry([8], "F8_E4M3"), "b": entry([16], "F4", (8, 16))}, b"\0" * 16))
    assert not found.damaged


def test_55_metadata(opened: Open) -> None:
    for value in ({"a": 1}, [1], "x", {"a": None}):
        assert opened(safetensors({"__metadata__": value, "a": entry()}, b"\0" * 8)).damaged
    assert not opened(safetensors({"__metadata__": {"a": "\x1b[31m$(id)"}, "a": entry()}, b"\0" * 8)).damaged


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x", "C:x", "a/b", ".", ""])
def test_56_shards_outside(name: str, refused: Refused) -> None:
    assert "outside its folder" in refused(json.dumps({"weight_map": {"a": name}}).encode())


def test_56_indices(tmp_path: Path, refused: Refused, opened: Open) -> None:
    for wrong in ({"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}, [1]):
        assert refused(json.dumps(wrong).encode())
    assert "is missing" in said(opened(json.dumps({"weight_map": {"a": "x.safetensors"}}).encode()))
    (tmp_path / "s.safetensors").write_bytes(safetensors({"b": entry()}, b"\0" * 8))
    (tmp_path / "t.safetensors").write_bytes(safetensors({"b": entry()}, b"\0" * 8))
    text = said(opened(json.dumps({"weight_map": {"a": "s.safetensors", "b": "t.safetensors"}}).encode()))
    assert "in no shard" in text
    assert "b stands in s.safetensors and in t.safetensors" in text
    (tmp_path / "loop.json").write_text(json.dumps({"weight_map": {"a": "loop.json"}}))
    with pytest.raises(BadInput, match="where a shard should be"):
        open_checkpoint(tmp_path / "loop.json")


# Other formats


def test_57_distributed_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "sentinel"), 4))
    with pytest.raises(BadInput):
        open_checkpoint(folder)
    assert not (tmp_path / "sentinel").exists()
    assert scan(folder).dangerous


def test_58_export_payloads(opened: Open) -> None:
    config = {"config": {"w": {"path_name": "w0", "is_param": True, "use_pickle": True, "tensor_meta": None}}}
    found = opened(
        zipped({"m/archive_format": b"pt2", "m/data/weights/model_weights_config.json": json.dumps(config).encode(),
                "m/data/weights/w0": b"\x80\x02."})
    )  # fmt: skip
    assert "code-payload" in found.tensors[0].flags


def test_59_numpy(opened: Open, refused: Refused) -> None:
    header = "{{'descr': '{}', 'fortran_order': False, 'shape': ({},), }}"

    def array(descr: str, shape: str) -> bytes:
        raw = header.format(descr, shape).encode()
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(raw)) + raw + b"\0" * 8

    assert "code-payload" in opened(array("|O", "2")).tensors[0].flags
    for shape in ("-3", str(10**30), "1" * 400):
        assert "impossible-shape" in opened(array("<f4", shape)).tensors[0].flags
    assert "short-storage" in opened(array("<f4", "3")).tensors[0].flags
    assert refused(array("__import__('os')", "2").replace(b"'__import__('os')'", b"__import__('os').x"))
    assert opened(zipped({"a.npy": npy(torch.zeros(10**6).numpy())}, zipfile.ZIP_DEFLATED)).tensors[0].numel == 10**6


@pytest.mark.parametrize(
    "data",
    [
        gguf(version=9), gguf(tensors=2**63), gguf(keys=2**63), gguf(alignment=0), gguf(dims=(2,) * 9), gguf()[:40],
        gguf().replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 2**63) + b"llama"),
    ],
)  # fmt: skip
def test_60_gguf(data: bytes, refused: Refused) -> None:
    assert refused(data)


def test_60_gguf_flags(opened: Open) -> None:
    assert "impossible-shape" in opened(gguf(dims=(2**62, 2**62))).tensors[0].flags
    assert "short-storage" in opened(gguf()[:-1]).tensors[1].flags
    assert opened(gguf().replace(b"blk.0.weight", b"output.weigh")).tensors


def test_61_onnx(opened: Open, refused: Refused) -> None:
    assert "external" in opened(onnx("weights.bin")).tensors[1].flags
    for name in ("../../etc/passwd", "/etc/passwd", "C:\\x"):
        found = opened(onnx(name))
        assert "outside the model's folder" in said(found)
        assert found.damaged
    assert refused(onnx()[:-30])
    assert refused(b"\x08" + b"\xff" * 12)


def test_62_63_foreign_text_stays_raw_in_records(opened: Open) -> None:
    name = "\x1b[31m[red]\u202e:bug:\r\n"
    found = opened(safetensors({name: entry()}, b"\0" * 8))
    assert found.tensors[0].name == name


def test_66_a_file_that_shrinks(tmp_path: Path) -> None:
    from modelprobe.checkpoints.source import FileSource

    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with FileSource(path) as source:
        path.write_bytes(b"x" * 10)
        with pytest.raises(BadInput, match="shorter"):
            source.read(0, 100)


def test_the_bound_on_inflation_holds() -> None:
    from modelprobe.checkpoints.source import Inflated

    class Bytes:
        name, origin = "b", None

        def __init__(self, data: bytes) -> None:
            self.data, self.size = data, len(data)

        def read(self, offset: int, length: int) -> bytes:
            return self.data[offset : offset + length]

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b"\0" * (64 << 20)) + packer.flush()
    source = Inflated(Bytes(packed), 0, len(packed), 64 << 20, 1 << 20)
    with pytest.raises(BadInput, match=r"bomb|inflates"):
        source.read(32 << 20, 10)
