"""A file in a store of fsspec is listed with few requests; a store that fails or is not installed is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from modelprobe.checkpoint.bytes import bucket as buckets
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import BadInput
from tests.checkpoint.sparse import WRITERS
from tests.command_line import CommandLine

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """fsspec's own store in memory, counting what it is asked for."""
    monkeypatch.setitem(buckets.STORE_PACKAGES, "memory", "fsspec")
    store = fsspec.filesystem("memory")
    asked: list[tuple[str, int]] = []
    read, info = type(store).cat_file, type(store).info

    def cat_file(self, path, start=None, end=None, **options):
        asked.append((path, (end or 0) - (start or 0)))
        return read(self, path, start=start, end=end, **options)

    def counted(self, path, **options):
        asked.append((path, 0))
        return info(self, path, **options)

    monkeypatch.setattr(type(store), "cat_file", cat_file)
    monkeypatch.setattr(type(store), "info", counted)
    store.asked = asked
    yield store
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("kind", WRITERS)
def test_three_requests_whatever_the_size(kind: str, memory, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "m", 400, 8_000_000)
    memory.pipe_file("/bucket/m", (tmp_path / "m").read_bytes())
    memory.asked.clear()
    found, local = open_checkpoint("memory://bucket/m"), open_checkpoint(tmp_path / "m")
    assert found.tensors == local.tensors
    assert found.size == local.size
    assert not any(storage.located for storage in found.storages.values())
    assert len([length for _, length in memory.asked if length]) == int(found.metadata["requests"]) - 1 <= 2
    assert sum(length for _, length in memory.asked) == found.metadata["fetched_bytes"] < 1_000_000


def test_what_is_not_there(memory) -> None:
    memory.pipe_file("/bucket/folder/m", save({"w": torch.ones(2)}))
    memory.pipe_file("/bucket/empty", b"")
    for url, words in (
        ("memory://bucket/none", "there is no memory://bucket/none"),
        ("memory://bucket/folder", "is a directory"),
        ("memory://bucket/empty", "is an empty file"),
    ):
        with pytest.raises(BadInput, match=words):
            open_checkpoint(url)


def test_stores_that_fail(memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/bucket/m", save({"w": torch.ones(200)}))

    def denied(self, path, **options):
        raise PermissionError("Forbidden")

    def short(self, path, start=None, end=None, **options):
        return b"x"

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "info", denied)
        with pytest.raises(BadInput, match="may not be read") as caught:
            open_checkpoint("memory://bucket/m")
    assert "log in" in caught.value.hint
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "cat_file", short)
        with pytest.raises(BadInput, match="sent another part"):
            open_checkpoint("memory://bucket/m")
    with pytest.raises(BadInput, match="more than"):
        buckets.BucketSource("memory://bucket/m", budget=100).read(0, 200)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "s3://a::file:///etc/passwd", "github://a:b@c/d"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(BadInput, match="has an unknown scheme"):
        open_checkpoint(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    answer = CommandLine(capsys)("summary", "s3://bucket/model.safetensors")
    assert answer.code == 2
    assert "s3:// addresses need the package s3fs, which is not installed" in answer.err
    assert "pip install 'modelprobe[remote]'" in answer.err
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(BadInput, match="need the package fsspec"):
        open_checkpoint("gs://bucket/model.safetensors")
