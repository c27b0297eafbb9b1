"""Malformed and hostile files of other formats: what the reader says. Numbered as in the project's list of cases.

Every case must end in one ProbeError or in a listing that says what is wrong; nothing may run, hang or grow.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import BadInput
from tests.checkpoint.hostile import Evil, entry, safetensors, said
from tests.checkpoint.seeds import gguf, npy, onnx, zipped

Open = Callable[[bytes], Checkpoint]
Refused = Callable[[bytes], str]


@pytest.mark.parametrize("length", [0, 10**6, 2**63, 2**64 - 1])
def test_49_header_lengths(length: int, refused: Refused) -> None:
    assert refused(safetensors({"a": entry()}, b"\0" * 8, length))


def test_49_header_beyond_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(safetensors({"a": entry()}, b"\0" * 8))
    with pytest.raises(BadInput, match="at most"):
        open_checkpoint(path, ReadLimits(header=16))


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
