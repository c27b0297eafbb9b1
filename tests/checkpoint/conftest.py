"""One set of seed files for all tests of the reader, and two ways to try a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import ProbeError
from tests.checkpoint.seeds import SEEDS


@pytest.fixture(scope="session")
def seed_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every seed on disk, by its kind."""
    folder = tmp_path_factory.mktemp("seeds")
    found = {}
    for kind, (name, save) in SEEDS.items():
        found[kind] = folder / kind.replace(" ", "_") / name
        found[kind].parent.mkdir()
        save(found[kind])
    return found


Open = Callable[[bytes], Checkpoint]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Write bytes to a file, open it, and build its whole report."""

    def go(data: bytes) -> Checkpoint:
        path = tmp_path / "file"
        path.write_bytes(data)
        found = open_checkpoint(path)
        summarize_weights(found).report()
        return found

    return go


@pytest.fixture
def refused(opened: Open) -> Callable[[bytes], str]:
    """The one line that a file is refused with."""

    def go(data: bytes) -> str:
        with pytest.raises(ProbeError) as caught:
            opened(data)
        assert "\n" not in caught.value.message
        return caught.value.message

    return go
