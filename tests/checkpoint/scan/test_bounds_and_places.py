"""What formats hold beside numbers (other files, operators, bytes), and what packed files may cost."""

from __future__ import annotations

import base64
import bz2
import functools
import gzip
import io
import json
import lzma
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from tests.checkpoint.scan.test_attacks import by_global
from tests.checkpoint.seeds import zipped

SYSTEM = by_global("os", "system", ("true",))


def field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer, shorter than 128 bytes or of two length bytes."""
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + data


def onnx(location: bytes = b"", operator: bytes = b"Conv", domain: bytes = b"") -> bytes:
    node = field(1, b"x") + field(2, b"y") + field(4, operator) + (field(7, domain) if domain else b"")
    entry = field(13, field(1, b"location") + field(2, location)) + b"\x70\x01" if location else b""
    tensor = b"\x08\x01\x10\x01" + field(8, b"w") + entry
    graph = field(1, node) + field(2, b"g") + field(5, tensor)
    return b"\x08\x08" + field(2, b"pytorch") + field(7, graph) + field(8, b"\x10\x11")


MODELS: dict[str, tuple[bytes, Trust]] = {
    "a place above": (onnx(b"../../../etc/passwd"), Trust.SUSPICIOUS),
    "a place above, inside": (onnx(b"a/../../x"), Trust.SUSPICIOUS),
    "an absolute place": (onnx(b"/etc/passwd"), Trust.SUSPICIOUS),
    "a Windows place": (onnx(b"..\\..\\x"), Trust.SUSPICIOUS),
    "an address": (onnx(b"file:///etc/passwd"), Trust.SUSPICIOUS),
    "Python": (onnx(b"", b"PyOp", b"ai.onnx.contrib"), Trust.SUSPICIOUS),
    "a file beside it": (onnx(b"w.bin"), Trust.HARMLESS),
    "an operator of another name": (onnx(b"", b"PyOpt", b"mine"), Trust.HARMLESS),
}


@pytest.mark.parametrize("kind", MODELS)
def test_onnx(kind: str, tmp_path: Path) -> None:
    raw, trust = MODELS[kind]
    (tmp_path / "m.onnx").write_bytes(raw)
    assert scan(tmp_path / "m.onnx").worst is trust


def gguf(value: bytes) -> bytes:
    def text(of: bytes) -> bytes:
        return struct.pack("<Q", len(of)) + of

    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"x.note") + struct.pack("<I", 8) + text(value)


@pytest.mark.parametrize("value", [base64.b64encode(SYSTEM), SYSTEM.hex().encode(), SYSTEM])
def test_gguf(value: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(value))
    assert scan(tmp_path / "m.gguf").worst is Trust.DANGEROUS
    (tmp_path / "m.gguf").write_bytes(gguf(b"a note " * 40))
    assert scan(tmp_path / "m.gguf").worst is Trust.HARMLESS


def test_msgpack(tmp_path: Path) -> None:
    """As Flax writes it: a map of one text to bytes (0xc4), and to an extension type (0xc7)."""
    for kind in (b"\xc4%c", b"\xc7%c\x05"):
        (tmp_path / "m.msgpack").write_bytes(b"\x81\xa1w" + kind % len(SYSTEM) + SYSTEM)
        assert scan(tmp_path / "m.msgpack").worst is Trust.DANGEROUS
    (tmp_path / "m.msgpack").write_bytes(b"\x81\xa1w\xc4\x64" + bytes(range(100)))
    assert scan(tmp_path / "m.msgpack").worst is Trust.UNKNOWN


def safetensors(tensors: dict[str, bytes], note: str = "") -> bytes:
    header: dict[str, Any] = {"__metadata__": {"note": note}}
    at = 0
    for name, raw in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(raw)], "data_offsets": [at, at := at + len(raw)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def array(raw: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.frombuffer(raw, np.uint8))
    return buffer.getvalue()


OLD = b"cos\nsystem\n(S'true'\ntR."
"""A pickle of protocol 0, which is a text."""

HELD: dict[str, Callable[[bytes], bytes]] = {
    "x.safetensors": lambda raw: safetensors({"a": b"1" * 9, "b": raw}),
    "note.safetensors": lambda raw: safetensors({}, raw.decode("latin-1")),
    "x.npy": array,
    "x.npz": lambda raw: zipped({"a.npy": array(raw)}, zipfile.ZIP_DEFLATED),
    "x.json": lambda raw: json.dumps({"a": raw.decode("latin-1")}).encode(),
    "x.onnx": lambda raw: field(2, b"pytorch") + field(6, raw) + onnx(),
    "base64.onnx": lambda raw: field(2, b"pytorch") + field(6, base64.b64encode(raw)) + onnx(),
}


@pytest.mark.parametrize("raw", [SYSTEM, OLD], ids=["4", "0"])
@pytest.mark.parametrize("name", HELD)
def test_bytes_of_tensors_and_letters_of_texts(name: str, raw: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HELD[name](raw))
    assert scan(tmp_path / name).worst is Trust.DANGEROUS
    harmless = pickle.dumps({"a": 1}) if raw is SYSTEM else b"configs\nmodel\n(lp0\n."
    (tmp_path / name).write_bytes(HELD[name](harmless))
    assert scan(tmp_path / name).worst is Trust.HARMLESS


def test_numbers_are_not_read_as_texts(tmp_path: Path) -> None:
    """Of 22 MB of numbers the search for templates and configurations took 6 s."""
    words = b"{{ ''.__class__.__mro__ }} _target_: os.system"
    (tmp_path / "m.safetensors").write_bytes(safetensors({"a": bytes(9), "b": words}))
    assert scan(tmp_path / "m.safetensors").worst is Trust.HARMLESS
    (tmp_path / "m.safetensors").write_bytes(safetensors({"a": bytes(9)}, words.decode()))
    assert scan(tmp_path / "m.safetensors").worst is Trust.DANGEROUS


IN_ZIP: dict[str, tuple[bytes, Trust]] = {
    "m.onnx": (onnx(b"../../../etc/passwd"), Trust.SUSPICIOUS),
    "m.gguf": (gguf(b"{{ ''.__class__.__mro__ }}"), Trust.SUSPICIOUS),
    "m.safetensors": (safetensors({}, base64.b64encode(SYSTEM).decode()), Trust.DANGEROUS),
    "larger.zip": (zipped({"zeros.bin": bytes(1 << 20), "m.pkl": SYSTEM}), Trust.DANGEROUS),
}


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", IN_ZIP)
def test_a_file_in_a_zip_is_read_as_by_itself(name: str, how: int, tmp_path: Path) -> None:
    raw, trust = IN_ZIP[name]
    (tmp_path / name).write_bytes(raw)
    (tmp_path / "all.zip").write_bytes(zipped({name: raw}, how))
    assert (scan(tmp_path / name).worst, scan(tmp_path / "all.zip").worst) == (trust, trust)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKERS)
def test_many_packed_parts_cost_little(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(PACKERS[kind](b"a") * 60_000)
    begun = time.process_time()
    found = scan(path)
    assert time.process_time() - begun < 10  # 60,000 parts took minutes: each copied what followed it
    assert found.worst is Trust.SUSPICIOUS
    assert "compressed one by one" in found.problems[-1].text


@pytest.mark.parametrize("kind", PACKERS)
def test_a_pickle_in_packed_parts_is_joined(kind: str, tmp_path: Path) -> None:
    raw = pickle.dumps({"a": 1}) + SYSTEM
    pieces = [raw[at : at + 9] for at in range(0, len(raw), 9)]
    (tmp_path / "m.bin").write_bytes(b"".join(map(PACKERS[kind], pieces)))
    assert scan(tmp_path / "m.bin").worst is Trust.DANGEROUS


MEASURE = """
import resource, sys
from modelprobe.checkpoint.answers.scan import scan
scan(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scan(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_tar_with_an_endless_header(tmp_path: Path) -> None:
    """Attributes of 60 MB took 172 MiB of memory."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "a" * (2 << 20)}
    with tarfile.open(tmp_path / "m.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    (found,) = scan(tmp_path / "m.tar").problems
    assert (found.trust, "a header of 2," in found.text) == (Trust.SUSPICIOUS, True)


def packed_again(inner: bytes, number: int) -> bytes:
    """A compressed zip of a plain one that has 40 MiB beside the other."""
    return zipped({"m.zip": zipped({"inner": inner, "pad": bytes([number + 1]) * (40 << 20)})}, zipfile.ZIP_DEFLATED)


LARGE: dict[str, Callable[[], bytes]] = {
    **{kind: lambda pack=pack: pack(bytes(200 << 20)) for kind, pack in PACKERS.items()},
    "zips in zips": lambda: functools.reduce(packed_again, range(4), SYSTEM),
    "zip": lambda: zipped({"a": bytes(60 << 20)}, zipfile.ZIP_DEFLATED),
    "text": lambda: b'{"a": "x\\ny"}\n' * (24 << 20 >> 4),
}


@pytest.mark.zoo
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in KiB on Linux")
@pytest.mark.parametrize("kind", LARGE)
def test_what_is_unpacked_is_held_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(pickle.dumps(json.dumps({"a": 1})))
    (tmp_path / "large").write_bytes(LARGE[kind]())
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "small", tmp_path / "large"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(told.stdout) < 90 << 10
