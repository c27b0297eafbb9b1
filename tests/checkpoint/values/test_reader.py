"""Values read by position are those that torch loads."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.errors import BadInput
from tests.checkpoint.seeds import Block, save_export, save_script

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32,
]  # fmt: skip


def state() -> dict[str, torch.Tensor]:
    base = torch.arange(60.0)
    values = torch.arange(6).reshape(2, 3)
    return {
        **{str(dtype).removeprefix("torch."): values.to(dtype) for dtype in DTYPES},
        "slice": base[7:19], "transposed": base.reshape(6, 10).t(), "steps": base[::7],
        "inner": base.reshape(3, 4, 5)[:, 1:3, ::2],
        "wide": base[:1].expand(4, 4), "empty": torch.empty(0, 3), "scalar": torch.tensor(3.5),
        "nan": torch.tensor([float("nan"), 1]),
    }  # fmt: skip


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, with the same dtype, shape and strides."""
    if (a.dtype, a.shape, a.stride()) != (b.dtype, b.shape, b.stride()):
        return False
    return a.contiguous().reshape(-1).view(torch.uint8).equal(b.contiguous().reshape(-1).view(torch.uint8))


def agree(found: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    with TensorReader(found) as reader:
        loaded = {entry.name: reader.load(entry) for entry in found.tensors if entry.name in expected}
    assert set(loaded) == set(expected)
    assert [name for name in expected if not same(loaded[name], expected[name])] == []


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files(legacy: bool, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "m", _use_new_zipfile_serialization=not legacy)
    agree(open_checkpoint(tmp_path / "m"), state())


def test_whole_modules(tmp_path: Path) -> None:
    model = Block()
    torch.save(model, tmp_path / "m")
    agree(open_checkpoint(tmp_path / "m"), model.state_dict())


def test_safetensors(tmp_path: Path) -> None:
    tensors = {key: value.contiguous().clone() for key, value in state().items() if key != "complex128"}
    save_file(tensors, tmp_path / "m")
    agree(open_checkpoint(tmp_path / "m"), tensors)


def test_archives_of_code(tmp_path: Path) -> None:
    save_script(tmp_path / "s")
    agree(open_checkpoint(tmp_path / "s"), torch.jit.load(str(tmp_path / "s")).state_dict())
    save_export(tmp_path / "e")
    agree(open_checkpoint(tmp_path / "e"), dict(torch.export.load(tmp_path / "e").state_dict))


def test_pickled_arrays_and_tensors(tmp_path: Path) -> None:
    array = numpy.arange(5000, dtype=">f4").reshape(100, 50)
    (tmp_path / "m").write_bytes(pickle.dumps({"a": array, "t": torch.arange(4.0)}, 4))
    found = open_checkpoint(tmp_path / "m")
    with TensorReader(found) as reader:
        loaded = {entry.name: reader.load(entry) for entry in found.tensors}
    assert loaded["a"].equal(torch.from_numpy(array.astype("<f4")))
    assert loaded["t"].equal(torch.arange(4.0))


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"s": torch.eye(3).to_sparse(), "m": torch.empty(2, device="meta")}, tmp_path / "m")
    found = open_checkpoint(tmp_path / "m")
    with TensorReader(found) as reader:
        for entry in found.tensors:
            with pytest.raises(BadInput, match="cannot be read as plain values"):
                reader.load(entry)
    torch.save({"big": torch.ones(100)}, tmp_path / "big")
    found = open_checkpoint(tmp_path / "big")
    with TensorReader(found, bound=64) as reader, pytest.raises(BadInput, match="more than is read"):
        reader.load(found.tensors[0])
