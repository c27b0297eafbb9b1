"""No damage to a file gets past the reader: seeded mutants of every format are refused, warned about, or listed.

20,000 of them under `-m slow`, some in the everyday run; `pytest -m slow tests/checkpoint/test_fuzz.py` prints what
became of them. Each seed's mutants are looked at in a process of its own, so that its memory can be measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelprobe.checkpoint.open import open_checkpoint
from tests.checkpoint.seeds import SEEDS
from tests.samples import ROOT

EVERYDAY = ("torch zip", "torch legacy", "safetensors")
FEW = 60
MANY = 20_000 // len(SEEDS) + 1
SECONDS = 5.0
MOST_MIB = 300


def fuzz(kind: str, seed_files: dict[str, Path], count: int, *kept: Path) -> dict:
    """Run the worker; nothing may have failed, run, hung, grown or been imported."""
    seed = seed_files[kind]
    command = [
        sys.executable,
        "-m",
        "tests.checkpoint.fuzz_worker",
        str(seed.parent),
        seed.name,
        str(count),
        *map(str, kept),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert not found["failures"], "\n".join(found["failures"])
    assert not found["seen"], found["seen"][:10]
    assert not found["modules"]
    assert found["slowest"] < SECONDS
    assert found["peak_mib"] < MOST_MIB
    assert sum(found["counts"].values()) == count
    return found


@pytest.mark.zoo
@pytest.mark.parametrize("kind", EVERYDAY)
def test_some_mutants(kind: str, seed_files: dict[str, Path]) -> None:
    fuzz(kind, seed_files, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_many_mutants(kind: str, seed_files: dict[str, Path], record_property: pytest.RecordProperty) -> None:
    found = fuzz(kind, seed_files, MANY)
    record_property("figure mutants", {"files": MANY, **found["counts"]})
    print(f"{kind}: {found['counts']}, the slowest {found['slowest']:.2f} s, at most {found['peak_mib']:.0f} MiB")


BY_TORCH = """
import json, sys
import torch


def tensors(value, path=()):
    if torch.is_tensor(value):
        yield path, [list(value.shape), str(value.dtype).removeprefix("torch.")]
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tensors(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from tensors(inner, (*path, str(index)))


for path in sys.argv[1:]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        continue
    print(json.dumps([path, [[list(place), said] for place, said in tensors(found)]]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch legacy", "torch zip"])
def test_what_is_listed_without_a_word_is_what_torch_loads(kind, seed_files, tmp_path, record_property) -> None:
    """A changed letter in a name is another valid file: names, shapes and types must be those that torch finds."""
    fuzz(kind, seed_files, MANY, tmp_path)
    command = [sys.executable, "-c", BY_TORCH, *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    compared = [json.loads(line) for line in done.stdout.splitlines()]
    assert compared
    for path, held in compared:
        listed = {entry.path: [list(entry.shape), entry.dtype] for entry in open_checkpoint(path).tensors}
        assert listed == {tuple(place): said for place, said in held}, path
    record_property(
        "figure mutants listed without a word", {"files": len(list(tmp_path.iterdir())), "as torch": len(compared)}
    )
