"""`summary --stats` gives the statistics that torch computes, for every dtype, view and format."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelprobe.checkpoint.answers import stats as weights_stats
from modelprobe.checkpoint.answers.decode import ValueReader, unpack
from modelprobe.checkpoint.answers.stats import TensorStats, measure_tensors
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.checkpoint.values.chunks import parts
from tests.checkpoint.values.test_reader import state as views
from tests.command_line import CommandLine

NARROW = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


def state() -> dict[str, torch.Tensor]:
    """Views of every kind and, of the narrow dtypes, every code there is."""
    codes = torch.arange(256, dtype=torch.uint8)
    tensors = {**views(), **{f"all {name}": codes.view(getattr(torch, name)) for name in NARROW}}
    tensors["all bfloat16"] = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    tensors["complex"] = torch.randn(50, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    tensors["minus"] = torch.arange(-8, 8, dtype=torch.int8).reshape(4, 4).t()
    return tensors


def stats(path: Path) -> dict[str, TensorStats]:
    found = open_checkpoint(path)
    return {made.name: made for made in measure_tensors(found, "", [(e.name, e) for e in found.tensors])}


def agree(made: TensorStats, tensor: torch.Tensor) -> None:
    """Compare with torch, in float64."""
    wide = (tensor.abs() if tensor.is_complex() else tensor).flatten().to(torch.float64)
    assert (made.nan, made.inf) == (int(wide.isnan().sum()), int(wide.isinf().sum()))
    finite = wide[wide.isfinite()]
    assert sum(made.histogram) == len(finite)
    assert made.zeros == int((finite == 0).sum())
    wanted = [finite.mean(), finite.norm(), finite.min(), finite.max()] if len(finite) else [None] * 4
    wanted.insert(1, finite.std() if len(finite) > 1 else None)
    around = 1e-13 * float(finite.abs().max()) if len(finite) else 0.0  # sums that cancel
    loose = 1e-5 if tensor.is_complex() else 1e-12
    for ours, theirs in zip((made.mean, made.std, made.norm, made.min, made.max), wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or math.isclose(ours, float(theirs), rel_tol=loose, abs_tol=around)
    if len(finite) > 1 and math.isfinite(float(finite.max() - finite.min())) and finite.min() < finite.max():
        bins = torch.histc(finite, 16, float(finite.min()), float(finite.max()))
        assert sum(abs(int(a) - b) for a, b in zip(bins, made.histogram, strict=True)) <= 2  # an edge may round


@pytest.mark.zoo
@pytest.mark.parametrize("step", [None, 64])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_dtype_and_view(legacy: bool, step: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if step:  # in parts of 64 bytes, and read a second time for the histogram
        monkeypatch.setattr(parts, "__defaults__", (step,))
        monkeypatch.setattr(weights_stats, "ONCE", 0)
    torch.save(state(), tmp_path / "m", _use_new_zipfile_serialization=not legacy)
    found = stats(tmp_path / "m")
    assert list(found) == list(state())
    for name, tensor in state().items():
        agree(found[name], tensor)


def test_deflated_storages_are_read_onward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "__defaults__", (1 << 12,))
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    torch.save({"w": values, "part": values[5_000:9_000]}, tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as old, zipfile.ZipFile(tmp_path / "packed", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    found = stats(tmp_path / "packed")
    agree(found["w"], values)
    agree(found["part"], values[5_000:9_000])


def test_high_byte_first(tmp_path: Path) -> None:
    array = numpy.arange(-5, 7, dtype=">f4").reshape(3, 4)
    numpy.savez(tmp_path / "m.npz", a=array, b=array.astype(">i2"))
    found = stats(tmp_path / "m.npz")
    for name in "ab":
        agree(found[name], torch.arange(-5.0, 7.0))


def test_quantised_tensors_give_their_integers(tmp_path: Path) -> None:
    torch.save({"q": torch.quantize_per_tensor(torch.arange(4.0), 0.5, 3, torch.quint8)}, tmp_path / "m")
    found = stats(tmp_path / "m")["q"]
    assert (found.of, found.min, found.max) == ("stored integers", 3, 9)  # 0 / 0.5 + 3 and 3 / 0.5 + 3


def test_blocks_of_gguf() -> None:
    scale, least = struct.pack("<e", 0.5), struct.pack("<e", -1.0)
    low = bytes(range(16))  # low nibble 0..15, high nibble 0
    eight = scale + struct.pack("<32b", *range(-16, 16))
    assert unpack(_block(eight), "Q8_0").tolist() == [0.5 * n for n in range(-16, 16)]
    assert unpack(_block(scale + low), "Q4_0").tolist() == [0.5 * (n - 8) for n in range(16)] + [-4.0] * 16
    assert unpack(_block(scale + least + low), "Q4_1").tolist() == [0.5 * n - 1 for n in range(16)] + [-1.0] * 16
    fifth = struct.pack("<I", 1 << 2 | 1 << 31)  # adds 16 to the third and to the last number
    numbers = [n + 16 * (n == 2) for n in range(16)] + [0] * 15 + [16]
    assert unpack(_block(scale + fifth + low), "Q5_0").tolist() == [0.5 * (n - 16) for n in numbers]
    assert unpack(_block(scale + least + fifth + low), "Q5_1").tolist() == [0.5 * n - 1 for n in numbers]


def _block(data: bytes) -> numpy.ndarray:
    return numpy.frombuffer(data, numpy.uint8).reshape(1, -1)


def test_gguf_files(seed_files: dict[str, Path]) -> None:
    found = stats(seed_files["GGUF"])
    assert found["output.weight"].zeros == 64
    assert (found["blk.0.weight"].dtype, found["blk.0.weight"].zeros, found["blk.0.weight"].unread) == ("Q8_0", 64, "")


def test_what_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = torch.tensor([1.0, math.nan, math.inf])
    torch.save({"good": torch.ones(3), "sparse": torch.eye(3).to_sparse(), "bad": bad}, tmp_path / "m")
    cli = CommandLine(capsys)
    answer = cli("summary", str(tmp_path / "m"), "--stats", "-f", "json")
    found = json.loads(answer.out)
    assert [(made["name"], bool(made["unread"])) for made in found["stats"]] == [
        ("good", False), ("sparse", True), ("bad", False),
    ]  # fmt: skip
    told = [note["text"] for note in found["notes"] if note["level"] == "warning"]
    assert told[0] == "NaN in bad (1 of 3)."
    assert told[1] == "Infinite values in bad (1 of 3)."
    assert told[2].startswith("No statistics of sparse: cannot be read as plain values: sparse")
    assert cli("summary", str(tmp_path / "m"), "--stats", "--strict").code == 3


def test_distributed_directories(tmp_path: Path) -> None:
    from torch.distributed import checkpoint

    model = nn.Linear(5, 3)
    checkpoint.save({"model": model.state_dict()}, checkpoint_id=tmp_path / "dcp")
    found = open_checkpoint(tmp_path / "dcp")
    (branch,) = found.branches[:1]
    named = [(".".join(entry.path[len(branch.path) :]), entry) for entry in found.tensors_in(branch)]
    made = {one.name: one for one in measure_tensors(found, branch.name, named)}
    agree(made["weight"], model.weight.detach())


@pytest.mark.zoo
def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(10_000_000)}, tmp_path / "m")  # 40 MB
    found = open_checkpoint(tmp_path / "m")
    tracemalloc.start()
    try:
        (made,) = measure_tensors(found, "", [("w", found.tensors[0])])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.zeros == 10_000_000
    assert peak < 36 << 20  # a part of 4 MiB, and float64 copies of it


def test_forged_views_end_at_once(tmp_path: Path) -> None:
    """Shapes that show one element 2**40 times, or a small storage over and over, cost nothing or are refused."""
    found = open_checkpoint(_saved(tmp_path, torch.ones(1).expand(1 << 20, 1 << 20)))
    (made,) = measure_tensors(found, "", [("w", found.tensors[0])])
    assert (made.numel, made.zeros, made.histogram) == (1 << 40, 0, (1 << 40,))
    found = open_checkpoint(_saved(tmp_path, torch.ones(1 << 17).as_strided((1 << 16, 1 << 16), (1, 1))))
    (made,) = measure_tensors(found, "", [("w", found.tensors[0])])
    assert "more than are read" in made.unread


def _saved(folder: Path, tensor: torch.Tensor) -> Path:
    torch.save({"w": tensor}, folder / "m")
    return folder / "m"


@pytest.mark.zoo
def test_torch_is_not_needed(tmp_path: Path) -> None:
    path = _saved(tmp_path, torch.ones(3))
    code = f"import sys; from modelprobe.cli.app import main; main(['summary', {str(path)!r}, '--stats', '--verify']); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")


def test_readers_close_their_files(tmp_path: Path) -> None:
    path = _saved(tmp_path, torch.ones(3))
    found: Checkpoint = open_checkpoint(path)
    with ExitStack() as stack:
        reader = ValueReader(found, "", stack)
        assert [part.tolist() for part, _ in reader.pieces("w", found.tensors[0])] == [[1.0, 1.0, 1.0]]
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.resolve() == path]


@pytest.mark.parametrize("first", ["a", "flipped"])
@pytest.mark.parametrize("flip", [torch._neg_view, torch.conj])
def test_a_flipped_view_is_another_tensor(flip: Callable, first: str, tmp_path: Path) -> None:
    a = torch.tensor([1 + 1j, 2 - 3j])
    held = {"a": a, "flipped": flip(a)}
    torch.save({first: held.pop(first), **held}, tmp_path / "m.pt")
    found = open_checkpoint(tmp_path / "m.pt")
    assert len({entry.identity for entry in found.tensors}) == 2
    with ExitStack() as stack:
        reader = ValueReader(found, "", stack)
        read = {e.name: [number for part, _ in reader.pieces("", e) for number in part.tolist()] for e in found.tensors}
    assert (read["a"], read["flipped"]) == (a.tolist(), flip(a).tolist())
