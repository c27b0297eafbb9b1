"""One set of seed files for all tests of the reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.seeds import SEEDS


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
