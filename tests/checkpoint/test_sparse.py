"""The files that the benchmarks list are real ones: torch reads them, and the reader finds them whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.checksums import verify
from tests.checkpoint.sparse import SUFFIXES, WRITERS


@pytest.mark.parametrize("kind", WRITERS)
def test_sparse_files_are_real(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{SUFFIXES[kind]}"
    WRITERS[kind](path, 20, 1_000_000)
    loaded = load_file(path) if kind == "safetensors" else torch.load(path, weights_only=True)
    found = open_checkpoint(path)
    assert not found.damaged
    assert found.findings == ()
    assert {entry.name: entry.shape for entry in found.tensors} == {name: tuple(t.shape) for name, t in loaded.items()}
    assert not verify(found).failed


@pytest.mark.parametrize("kind", WRITERS)
def test_beyond_four_gigabytes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{SUFFIXES[kind]}"
    WRITERS[kind](path, 50, 5_000_000_000)
    found = open_checkpoint(path)
    assert not found.damaged
    assert sum(entry.nbytes for entry in found.tensors) > 4_900_000_000
    assert path.stat().st_blocks * 512 < 10_000_000
