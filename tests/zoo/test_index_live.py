"""The packaged index against live counts: a random 60 networks, others each day of the year."""

from __future__ import annotations

import datetime
import random
from importlib import metadata

import pytest

from modelprobe.environment import usable_cores
from modelprobe.model.zoo.index import PACKAGED, open_index, rows_of
from modelprobe.zoo.build_index import measure_all

pytestmark = pytest.mark.zoo


def test_a_random_60_equal_a_live_count() -> None:
    index = open_index(PACKAGED)
    if any(metadata.version(library) != index.versions[library] for library in ("torchvision", "timm")):
        pytest.skip("the index was made with other releases")
    rows = {f"{row['origin']}:{row['name']}": row for row in rows_of(index)}
    seed = datetime.date.today().toordinal()
    targets = random.Random(seed).sample(sorted(rows), 60)
    built = measure_all(targets, usable_cores())
    assert built.problems == {}
    for row in built.rows:
        held = rows[f"{row['origin']}:{row['name']}"]
        for key, value in row.items():
            assert plain(held[key]) == plain(value), (row["name"], key, seed)


def plain(value: object) -> object:
    """Lists for tuples, all the way down."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
