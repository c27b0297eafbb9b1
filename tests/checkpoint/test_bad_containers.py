"""Malformed and hostile containers: what the reader says to them. Numbered as in the project's list of cases.

Every case must end in one ProbeError or in a listing that says what is wrong; nothing may run, hang or grow.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import BadInput
from tests.checkpoint.hostile import legacy_bytes, rezipped, said, state_bytes
from tests.checkpoint.seeds import torch_zip, unzip, zipped

Open = Callable[[bytes], Checkpoint]
Refused = Callable[[bytes], str]


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
        archive.addfile(tarfile.TarInfo("weights/model.pth"))
    assert "tar archive" in refused(buffer.getvalue())


def test_48_the_tar_format_of_early_torch(refused: Refused) -> None:
    for style in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=style) as archive:
            archive.addfile(tarfile.TarInfo("sys_info"))
            archive.addfile(tarfile.TarInfo("../../pickle"))
        assert "tar format of 2016" in refused(buffer.getvalue())


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


@pytest.mark.zoo
def test_20_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(torch_zip(b"\x80\x02" + b"N0" * 40_000_000 + b"N.", method=zipfile.ZIP_DEFLATED))
    with pytest.raises(BadInput, match=r"longer|inflates|instructions"):
        open_checkpoint(path, ReadLimits(pickle_bytes=8 << 20))


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


@pytest.mark.zoo
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


def test_66_a_file_that_shrinks(tmp_path: Path) -> None:
    from modelprobe.checkpoint.bytes.source import FileSource

    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with FileSource(path) as source:
        path.write_bytes(b"x" * 10)
        with pytest.raises(BadInput, match="shorter"):
            source.read(0, 100)


@pytest.mark.zoo
def test_the_bound_on_inflation_holds() -> None:
    from modelprobe.checkpoint.bytes.source import Inflated

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
