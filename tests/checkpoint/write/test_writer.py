"""What the writer wrote loads everywhere as it was: values, order, sharing, strides, versions, other entries."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import extra_entries
from modelprobe.checkpoint.write.writer import STATE_PLACE, TensorToWrite, write_shards, write_tensors
from modelprobe.errors import BadInput
from tests.checkpoint.seeds import Block, training
from tests.checkpoint.writing import bits, held, same, state, taken_from

UNKNOWN_TO_SAFETENSORS = ("complex128",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_torch_file_loads_as_it_was(legacy: bool, mmap: bool, tmp_path: Path) -> None:
    tensors = state()
    torch.save(tensors, tmp_path / "in.pt", _use_new_zipfile_serialization=not legacy)
    with taken_from(tmp_path / "in.pt") as outgoing:
        done = write_tensors(tmp_path / "out.pt", outgoing, "pt", sources=[tmp_path / "in.pt"])
    loaded = torch.load(tmp_path / "out.pt", weights_only=True, mmap=mmap)
    assert list(loaded) == list(tensors)
    assert [name for name in tensors if not same(loaded[name], tensors[name])] == []
    assert done.tensors == len(tensors)
    assert done.bytes == (tmp_path / "out.pt").stat().st_size
    assert loaded["tied"].data_ptr() == loaded["float32"].data_ptr()
    for dense in ("transposed", "channels_last", "scalar", "float16"):
        assert loaded[dense].stride() == tensors[dense].stride(), dense
    assert all(loaded[name].untyped_storage().nbytes() == len(bits(tensors[name])) for name in tensors)


def test_a_safetensors_file_loads_as_it_was(tmp_path: Path) -> None:
    tensors = state()
    torch.save(tensors, tmp_path / "in.pt")
    names = [name for name in tensors if name not in UNKNOWN_TO_SAFETENSORS]
    with taken_from(tmp_path / "in.pt", names) as outgoing:
        done = write_tensors(tmp_path / "out.safetensors", outgoing, "safetensors", metadata={"author": "näme"})
    loaded = load_file(tmp_path / "out.safetensors")
    kept = [name for name in names if name != "tied"]
    assert set(loaded) == set(kept)
    assert [name for name in kept if not same(loaded[name], tensors[name])] == []
    assert [entry.name for entry in open_checkpoint(tmp_path / "out.safetensors").tensors] == kept
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", "author": "näme", "tied": "float32"}
    assert any("tied is float32" in note for note in done.notes)
    assert any("transposed" in note for note in done.notes)


def test_every_tensor_is_aligned_in_both_formats(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(5, dtype=torch.float64), "c": torch.ones(1)}
    write_tensors(tmp_path / "m.safetensors", held(tensors), "safetensors")
    for entry in open_checkpoint(tmp_path / "m.safetensors").storages.values():
        assert entry.position % tensors[entry.key].element_size() == 0
    write_tensors(tmp_path / "m.pt", held(tensors), "pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            if "/data/" in info.filename:
                raw = (tmp_path / "m.pt").read_bytes()[info.header_offset :][:30]
                start = (
                    info.header_offset
                    + 30
                    + int.from_bytes(raw[26:28], "little")
                    + int.from_bytes(raw[28:30], "little")
                )
                assert start % 64 == 0


@pytest.mark.parametrize("format", ["pt", "safetensors"])
def test_equal_input_gives_equal_files(format: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tensors(tmp_path / name, held({"x": torch.arange(5.0), "y": torch.zeros(2, 2)}), format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("format", ["pt", "safetensors"])
def test_nothing_to_write_is_a_file_too(format: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", [], format)
    loaded = torch.load(tmp_path / "m") if format == "pt" else load_file(tmp_path / "m")
    assert len(loaded) == 0


def test_the_other_entries_of_a_training_checkpoint_survive(tmp_path: Path) -> None:
    source = training()
    torch.save(source, tmp_path / "in.pt")
    found = open_checkpoint(tmp_path / "in.pt")
    with TensorReader(found) as reader:
        others = extra_entries(found, reader, None)
        write_tensors(tmp_path / "out.pt", (), "pt", extras=others.extras)
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(loaded) == list(source)
    assert loaded["optimizer"]["param_groups"] == source["optimizer"]["param_groups"]
    assert list(loaded["optimizer"]["state"]) == [0, 1, 2, 3]
    assert loaded["state_dict_ema"]._metadata == source["state_dict_ema"]._metadata
    assert same(loaded["optimizer"]["state"][0]["exp_avg"], source["optimizer"]["state"][0]["exp_avg"])
    Block().load_state_dict(loaded["state_dict_ema"])


def test_renamed_tensors_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    torch.save({**training(), "note": "x"}, tmp_path / "in.pt")
    found = open_checkpoint(tmp_path / "in.pt")
    with TensorReader(found) as reader, taken_from(tmp_path / "in.pt") as everything:
        others = extra_entries(found, reader, found.branch)
        prefix = "state_dict.module."
        renamed = [tensor for tensor in everything if tensor.name.startswith(prefix)]
        renamed = [
            TensorToWrite(t.name.removeprefix(prefix), t.shape, t.dtype, t.load, t.shares, t.pieces, t.strides)
            for t in renamed
        ]
        write_tensors(tmp_path / "out.pt", renamed, "pt", extras=others.extras, versions=others.versions)
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(loaded) == ["epoch", "state_dict", "state_dict_ema", "optimizer", "args", "note"]
    Block().load_state_dict(loaded["state_dict"])


def test_plain_values_of_every_kind(tmp_path: Path) -> None:
    values = {
        "none": None, "true": True, "int": -(10**30), "float": 0.1, "text": "ü\n", "bytes": b"\x00\xff",
        "set": {1, "a"}, "tuple": (1, (2.5, None)), "list": [[], {}], "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16, "device": torch.device("cuda", 1), "complex": 1 + 2j,
        3: "an integer key", (1, 2): "a tuple key",
        "shared": [1], "tensor": held({"t": torch.arange(3)})[0], "ordered": OrderedDict(a=1),
    }  # fmt: skip
    values["again"] = values["shared"]
    write_tensors(tmp_path / "m", held({"w": torch.ones(1)}), "pt", extras={**values, "model": STATE_PLACE})
    loaded = torch.load(tmp_path / "m", weights_only=True)
    assert loaded.pop("tensor").tolist() == [0, 1, 2]
    assert loaded.pop("model")["w"].item() == 1
    assert loaded["again"] is loaded["shared"]
    assert loaded == {key: value for key, value in values.items() if key != "tensor"}


@pytest.mark.parametrize(
    ("tensors", "format", "expected"),
    [
        (held({"z": torch.ones(1, dtype=torch.complex128)}), "safetensors", "no type for z: complex128"),
        (held({"a": torch.ones(1)}) * 2, "pt", "two tensors would be called a"),
        (held({"__metadata__": torch.ones(1)}), "safetensors", "keeps the name"),
        (held({"\ud800": torch.ones(1)}), "safetensors", "cannot be written as UTF-8"),
        ([TensorToWrite("a", (3,), "float32", lambda: torch.ones(2))], "pt", "announced as float32"),
        ([TensorToWrite("a", (3,), "Q4_0", lambda: torch.ones(3))], "pt", "not a plain type"),
        ([TensorToWrite("a", (3,), "float32", torch.ones, None, lambda: iter([torch.ones(2)]))], "pt", "and has 8"),
        ([TensorToWrite(n, (s,), "float32", torch.ones, "tie") for n, s in (("a", 1), ("b", 2))], "pt", "tied but"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_leaves_no_trace(
    tensors: list[TensorToWrite], format: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=expected):
        write_tensors(tmp_path / "m", tensors, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "suffix"), [("safetensors", "safetensors"), ("pt", "bin")])
def test_shards_and_their_index(format: str, suffix: str, tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.full((4,), float(number)) for number in range(5)}
    groups = {f"m-00001-of-00002.{suffix}": held(tensors)[:3], f"m-00002-of-00002.{suffix}": held(tensors)[3:]}
    index = tmp_path / f"m.{suffix}.index.json"
    done = write_shards(index, groups, format)
    assert (done.tensors, len(done.files)) == (5, 3)
    found = open_checkpoint(index)
    assert not found.damaged
    with TensorReader(found) as reader:
        assert all(same(reader.load(entry), tensors[entry.name]) for entry in found.tensors)
    with pytest.raises(BadInput, match="exists"):
        write_shards(index, groups, format)


@pytest.mark.zoo
def test_many_tensors(tmp_path: Path) -> None:
    one = torch.ones(1)
    tensors = [TensorToWrite(f"layer.{number}.weight", (1,), "float32", lambda: one) for number in range(3000)]
    for format in ("pt", "safetensors"):
        done = write_tensors(tmp_path / format, tensors, format)
        assert len(open_checkpoint(done.path).tensors) == 3000
