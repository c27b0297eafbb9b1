"""The index file: what goes in comes out, and what is damaged or newer is not used."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from modelprobe.model.zoo.fingerprint import names_from, numbers_by_kind, pattern_of, profile_of
from modelprobe.model.zoo.index import (
    PACKAGED,
    IndexDamagedError,
    merged,
    model_of_row,
    open_index,
    pack,
    read_catalogue,
    rows_of,
    user_index,
)
from modelprobe.model.zoo.names import zoo_names

STATE = {
    "stem.weight": [8, 3, 3, 3], "head.weight": [10, 8],
    "a.0.w1": [4], "a.1.w1": [4], "a.01.w1": [4], "a.10.w1": [],
}  # fmt: skip
ROW = {
    "name": "net", "origin": "pkg.nets", "family": "Net / odd", "task": "", "input": [[1, 3, 8, 8]], "parameters": 10,
    "macs": 5, "flops": 11, "activations": 3, "uncounted": 0,
    "weights": [["v1", "mit", 70.5, 8], ["v2", None, 80.0, 16]], "features": [[2, 8]], "state": STATE,
}  # fmt: skip


def test_patterns_and_back() -> None:
    assert pattern_of("layer1.10.conv2.weight") == "layer#.#.conv#.weight"
    names = {name: tuple(shape) for name, shape in STATE.items()}
    kinds = numbers_by_kind(names)
    counts = profile_of(names)
    assert dict(names_from((*kind, counts[kind], kinds[kind]) for kind in counts)) == names


def test_a_file_holds_what_was_packed(tmp_path: Path) -> None:
    path = tmp_path / "index.zip"
    path.write_bytes(pack([ROW], {"torch": "1"}))
    index = open_index(path)
    model = index.models[0]
    assert (model.target, model.macs, index.versions) == ("pkg.nets:net", 5, {"torch": "1"})
    assert index.names(model) == {name: tuple(shape) for name, shape in STATE.items()}
    assert model.top1 == 70.5  # v2 was measured on images of 16, the costs are of 8
    again = pack(list(rows_of(index)), {"torch": "1"})
    assert again == path.read_bytes()


def test_a_newer_row_takes_the_place_of_an_older_one() -> None:
    assert [row["macs"] for row in merged([ROW], [{**ROW, "macs": 6}])] == [6]


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 100])
def test_a_damaged_file_is_said_to_be_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.zip").write_bytes(content)
    with pytest.raises(IndexDamagedError, match="damaged"):
        open_index(tmp_path / "index.zip")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "index.zip", "w") as archive:
        archive.writestr("header.json", json.dumps({"schema": "modelprobe.index/99"}))
    with pytest.raises(IndexDamagedError, match=r"schema modelprobe\.index/99"):
        open_index(tmp_path / "index.zip")


@pytest.mark.zoo
def test_a_damaged_index_of_the_user_leaves_the_packaged_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path))
    user_index().write_bytes(b"nothing")
    catalogue = read_catalogue()
    assert len(catalogue.models) > 1000
    assert "is not used: it is damaged" in catalogue.problems[0]
    assert catalogue.problems[0].endswith("`modelprobe index add` makes it anew")


def test_the_packaged_index_is_small_and_knows_every_name() -> None:
    assert PACKAGED.stat().st_size < 2_000_000
    index = open_index(PACKAGED)
    targets = {model.target for model in index.models}
    here = {f"torchvision:{name}" for name in zoo_names().torchvision} | {f"timm:{name}" for name in zoo_names().timm}
    import importlib.metadata as metadata

    if all(metadata.version(library) == index.versions[library] for library in ("torchvision", "timm")):
        assert here == targets


def test_costs_of_resnet50() -> None:
    model = read_catalogue().get("torchvision:resnet50")
    assert model is not None
    assert (model.parameters, model.macs, model.input) == (25_557_032, 4_089_184_256, ((1, 3, 224, 224),))
    assert dict(model.features) == {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}
    assert model.top1 == 80.858
    assert (
        model_of_row(next(row for row in rows_of(open_index(PACKAGED)) if row["name"] == "alexnet")).task
        == "classification"
    )
