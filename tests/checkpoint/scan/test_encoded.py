"""`scan` follows pickles that hide in base64 and other encodings, at any depth, and leaves ordinary texts alone."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.scan.encoded import Decoded, Memory, decoded


class Evil:
    """Would make a directory."""

    def __reduce__(self):
        return os.mkdir, ("/nowhere/at/all",)


def hidden(protocol: int, encode=base64.b64encode) -> bytes:
    return encode(pickle.dumps(Evil(), protocol=protocol))


def dangerous(path: Path) -> list[str]:
    return [f"{found.name} in {found.where}" for found in scan(path).imports if found.trust.value == "dangerous"]


@pytest.mark.parametrize("outer", [0, 2, 4, 5])
@pytest.mark.parametrize("inner", [0, 2, 4])
@pytest.mark.parametrize("kind", [str, bytes])
def test_base64_in_texts_and_bytes(outer: int, inner: int, kind: type, tmp_path: Path) -> None:
    text = hidden(inner)
    value = {"weights": [1, 2], "extra": text.decode() if kind is str else text}
    (tmp_path / "m").write_bytes(pickle.dumps(value, protocol=outer))
    (found,) = dangerous(tmp_path / "m")
    assert "mkdir" in found
    assert found.endswith(", in base64")


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.encodebytes])
def test_other_spellings(encode, tmp_path: Path) -> None:
    inner = pickle.dumps(["?" * 200, Evil()])
    (tmp_path / "m").write_bytes(pickle.dumps({"a": encode(inner)}))
    assert "mkdir" in dangerous(tmp_path / "m")[0]


ENCODED: dict[str, Callable[[bytes], bytes | str]] = {
    "base32": base64.b32encode,
    "base85": base64.b85encode,
    "ascii85": base64.a85encode,
    "ascii85 of Adobe, in lines": lambda raw: base64.a85encode(raw, adobe=True, wrapcol=60),
    "hex": bytes.hex,
    "large hex": lambda raw: raw.hex().upper(),
    "spaced hex": lambda raw: raw.hex(" "),
    "a list of hex": lambda raw: ", ".join(f"0x{byte:02x}" for byte in raw),
    "escapes": lambda raw: "".join(f"\\x{byte:02x}" for byte in raw),
    "a list of numbers": lambda raw: str(list(raw)),
    "base64 of base64": lambda raw: base64.b64encode(base64.b64encode(raw)),
    "hex of zlib": lambda raw: zlib.compress(raw).hex(),
    "base85 of gzip": lambda raw: base64.b85encode(gzip.compress(raw)),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("inner", [0, 4])
def test_other_encodings(encoding: str, inner: int, tmp_path: Path) -> None:
    text = ENCODED[encoding](pickle.dumps(Evil(), protocol=inner))
    text = text.decode() if isinstance(text, bytes) else text
    files = {
        "json": f'{{"state": "{text}", "n": 3}}'.encode(),
        "note.txt": f"weights\n{text}\n".encode(),
        "text.pkl": pickle.dumps({"state": text}, 4),
        "bytes.pkl": pickle.dumps({"state": text.encode()}, 4),
    }
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        assert "mkdir" in "".join(dangerous(tmp_path / name)), name
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("data", files["json"])
    assert "mkdir" in "".join(dangerous(tmp_path / "m.zip"))


def raw_deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()


LISTED: dict[str, Callable[[bytes], object]] = {
    "numbers": list,
    "a tuple of numbers": tuple,
    "numbers of a packed pickle": lambda raw: list(gzip.compress(raw)),
    "pieces of base64": lambda raw: [base64.b64encode(raw).decode()[at : at + 20] for at in range(0, 999, 20)],
    "deep": lambda raw: {"a": [({"b": list(raw)},)]},
    "raw deflate": raw_deflate,
}


@pytest.mark.parametrize("kind", LISTED)
@pytest.mark.parametrize("inner", [0, 2, 4])
def test_lists_that_are_bytes(kind: str, inner: int, tmp_path: Path) -> None:
    for outer in (0, 2, 4):
        (tmp_path / "m").write_bytes(pickle.dumps({"w": LISTED[kind](pickle.dumps(Evil(), inner))}, outer))
        assert "mkdir" in "".join(dangerous(tmp_path / "m")), outer


def test_a_file_in_raw_deflate(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(raw_deflate(pickle.dumps(Evil())))
    assert "mkdir" in "".join(dangerous(tmp_path / "m"))


def test_ordinary_lists(tmp_path: Path) -> None:
    value = {"ids": list(range(256)), "labels": ["cat", "dog", "elephant"] * 9, "table": [[1, 2, 3] * 9] * 5}
    value["self"] = value["table"]
    (tmp_path / "m").write_bytes(pickle.dumps(value))
    found = scan(tmp_path / "m")
    assert (found.pickles, found.imports, found.problems) == (1, (), ())


def test_texts_in_the_header_of_safetensors(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"note": hidden(4).decode()}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "mkdir" in "".join(dangerous(tmp_path / "m.safetensors"))


def test_one_inside_another_and_in_archives(tmp_path: Path) -> None:
    twice = base64.b64encode(pickle.dumps({"x": hidden(4)}))
    torch.save({"w": torch.ones(3), "note": twice.decode()}, tmp_path / "m.pth")
    assert len(dangerous(tmp_path / "m.pth")) == 1
    with zipfile.ZipFile(tmp_path / "m.pth") as old, zipfile.ZipFile(tmp_path / "packed.pth", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    assert len(dangerous(tmp_path / "packed.pth")) == 1


def test_ordinary_texts(tmp_path: Path) -> None:
    names = [f"transformer_encoder_layer_{n}_self_attention_weight" for n in range(500)]
    value = {"names": names, "image": base64.b64encode(bytes(range(256)) * 40).decode(), "hash": "0676ba61" * 8}
    (tmp_path / "m").write_bytes(pickle.dumps(value))
    found = scan(tmp_path / "m")
    assert (found.pickles, found.nested, found.imports, found.problems) == (1, 0, (), ())


def test_a_text_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelprobe.checkpoint.scan.encoded.SEARCH_BYTES", 100)
    data = bytes(range(60))
    raw = b"\x01" * 70 + base64.b64encode(data) + b"\x01" * 70
    assert Decoded(70, data, "base64") in list(decoded(Memory(raw, ""), 0, len(raw)))
