"""No weight file is lost: links to the input, a full disk, a kill at any moment, no permission, a failing disk."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.write import plan, writer
from modelprobe.checkpoint.write.tensor import TensorToWrite
from modelprobe.checkpoint.write.writer import write_shards, write_tensors
from modelprobe.errors import BadInput
from tests.checkpoint.writing import held, snapshot, taken_from

FORMATS = ("pt", "safetensors")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small weight file in a directory of its own."""
    (tmp_path / "a").mkdir()
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "a" / "in.pt")
    return tmp_path / "a" / "in.pt"


def rewrite(source: Path, out: Path, format: str = "pt", force: bool = True) -> None:
    with taken_from(source) as tensors:
        write_tensors(out, tensors, format, sources=[source], force=force)


def names_of(source: Path) -> dict[str, Path]:
    """The input under every name that leads to it."""
    folder = source.parent
    (folder / "soft").symlink_to(source)
    (folder / "chain").symlink_to(folder / "soft")
    (folder / "hard").hardlink_to(source)
    (folder.parent / "b").symlink_to(folder, target_is_directory=True)
    return {
        "path": source,
        "symbolic link": folder / "soft",
        "link to a link": folder / "chain",
        "hard link": folder / "hard",
        "dots": folder / "." / ".." / "a" / source.name,
        "linked directory": folder.parent / "b" / source.name,
    }


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "way", ["path", "symbolic link", "link to a link", "hard link", "dots", "linked directory", "relative"]
)
def test_the_input_is_never_the_output(way: str, force: bool, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = names_of(source)
    monkeypatch.chdir(source.parent)
    before = snapshot(source.parent)
    out = Path("in.pt") if way == "relative" else names[way]
    for given, taken in ((source, out), (out, source)):
        with pytest.raises(BadInput, match="is the input itself"):
            rewrite(given, taken, force=force)
    assert snapshot(source.parent) == before


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link(force: bool, source: Path) -> None:
    other = source.with_name("other.pt")
    other.write_bytes(b"precious")
    (source.parent / "link.pt").symlink_to(other)
    (source.parent / "dangling.pt").symlink_to(source.with_name("nowhere.pt"))
    for name in ("link.pt", "dangling.pt"):
        with pytest.raises(BadInput, match="is a symbolic link"):
            rewrite(source, source.with_name(name), force=force)
    assert other.read_bytes() == b"precious"


def test_an_existing_file_needs_force(source: Path) -> None:
    out = source.with_name("out.pt")
    out.write_bytes(b"old")
    with pytest.raises(BadInput, match="exists"):
        rewrite(source, out, force=False)
    assert out.read_bytes() == b"old"
    rewrite(source, out)
    assert torch.load(out)["w"].numel() == 1000


@pytest.mark.parametrize(("place", "expected"), [("a", "is a directory"), ("no/where.pt", "there is no directory")])
def test_places_that_cannot_be(place: str, expected: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=expected):
        rewrite(source, tmp_path / place)


def test_a_fifo_is_not_opened(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="not a regular file"):
        rewrite(source, tmp_path / "pipe")


@pytest.mark.parametrize("format", FORMATS)
def test_the_umask_decides_and_force_keeps_the_mode(format: str, source: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        rewrite(source, tmp_path / "new", format)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o604)
        rewrite(source, tmp_path / "new", format)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    finally:
        os.umask(before)


@pytest.mark.parametrize("format", FORMATS)
def test_no_room_is_said_before_anything_is_written(
    format: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 3999))
    before = snapshot(tmp_path)
    with pytest.raises(BadInput, match=r"has 3.905 KiB free"):
        rewrite(source, tmp_path / "out", format)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("step", [0, 1, 2, 5])
@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_fills_up(format: str, step: int, source: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    base = torch.ones(10)

    def pieces():
        for number in range(8):
            if number == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield base

    tensor = TensorToWrite("w", (80,), "float32", torch.ones, None, pieces)
    with pytest.raises(BadInput, match="no space left on device"):
        write_tensors(tmp_path / "out", [tensor], format, sources=[source])
    assert snapshot(tmp_path) == before


def test_a_disk_that_is_full_at_the_last_byte(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    before = snapshot(tmp_path)
    with pytest.raises(BadInput, match="no space left on device"):
        rewrite(source, tmp_path / "out")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_nothing_stays_behind_when_it_is_interrupted(error: type[BaseException], source: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)

    def load() -> torch.Tensor:
        assert len(list(tmp_path.glob(".modelprobe-*.tmp"))) == 1
        raise error

    with pytest.raises(error):
        write_tensors(tmp_path / "out", [*held({"a": torch.ones(9)}), TensorToWrite("b", (9,), "float32", load)], "pt")
    assert snapshot(tmp_path) == before


def test_shards_are_written_all_or_none(tmp_path: Path) -> None:
    def load() -> torch.Tensor:
        raise KeyboardInterrupt

    shards = {
        "m-1.safetensors": held({"a": torch.ones(9)}),
        "m-2.safetensors": [TensorToWrite("b", (9,), "float32", load)],
    }
    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "m.safetensors.index.json", shards, "safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_returns_other_bytes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(path: Path, *rest: object) -> None:
        data = bytearray(path.read_bytes())
        data[data.find(torch.arange(1000.0).numpy().tobytes()) + 100] ^= 1
        path.write_bytes(data)
        plan.compare(path, *rest)

    monkeypatch.setattr(writer, "compare", flipped)
    before = snapshot(tmp_path)
    for format in FORMATS:
        with pytest.raises(BadInput, match="read back"):
            rewrite(source, tmp_path / "out", format)
    assert snapshot(tmp_path) == before


def test_a_directory_without_permission(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    if os.geteuid() == 0:  # to whom nothing is forbidden
        original = Path.open

        def refuse(self: Path, mode: str = "r", *rest: object, **more: object):
            if "x" in mode:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return original(self, mode, *rest, **more)

        monkeypatch.setattr(Path, "open", refuse)
    else:
        (tmp_path / "locked").chmod(0o500)
    with pytest.raises(BadInput, match="permission denied"):
        rewrite(source, tmp_path / "locked" / "out.pt")
    assert list((tmp_path / "locked").iterdir()) == []


def test_a_target_that_turns_up_meanwhile_is_not_replaced(source: Path, tmp_path: Path) -> None:
    def load() -> torch.Tensor:
        (tmp_path / "out.pt").write_bytes(b"somebody else's")
        return torch.ones(3)

    with pytest.raises(BadInput, match="exists"):
        write_tensors(tmp_path / "out.pt", [TensorToWrite("w", (3,), "float32", load)], "pt")
    assert (tmp_path / "out.pt").read_bytes() == b"somebody else's"
    assert not list(tmp_path.glob(".modelprobe-*"))


def test_an_input_that_shrinks_meanwhile(source: Path, tmp_path: Path) -> None:
    with taken_from(source) as tensors:
        os.truncate(source, 900)
        with pytest.raises(BadInput, match=r"shorter|ends early|no local header"):
            write_tensors(tmp_path / "out.pt", tensors, "pt", sources=[source])
    assert not (tmp_path / "out.pt").exists()


def killed_while_writing(folder: Path, points: int, seed: int) -> dict[str, int]:
    """Kill a writing process at random moments; how often the target was absent, old, or new and whole."""
    random.seed(seed)
    torch.save({f"w{number}": torch.full((1 << 19,), float(number)) for number in range(8)}, folder / "in.pt")
    rewrite(folder / "in.pt", folder / "expected.pt")
    start = time.perf_counter()
    rewrite(folder / "in.pt", folder / "expected.pt")
    length = time.perf_counter() - start
    before = snapshot(folder)
    seen = {"absent": 0, "old": 0, "new": 0}
    for point in range(points):
        out = folder / "out.pt"
        out.unlink(missing_ok=True)
        if point % 2:
            out.write_bytes(b"old")
        child = os.fork()
        if child == 0:
            try:
                rewrite(folder / "in.pt", out)
            finally:
                os._exit(0)
        time.sleep(random.uniform(0, 1.3 * length))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        after = {name: value for name, value in snapshot(folder).items() if not name.startswith(".modelprobe-")}
        state = after.pop("out.pt", None)
        assert after == before
        kind = "absent" if state is None else "new" if state == before["expected.pt"] else "old"
        assert kind != "old" or (point % 2 and out.read_bytes() == b"old")
        assert kind != "absent" or not point % 2
        seen[kind] += 1
        for leftover in folder.glob(".modelprobe-*"):
            leftover.unlink()
    return seen


@pytest.mark.zoo
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_while_writing(tmp_path: Path) -> None:
    assert sum(killed_while_writing(tmp_path, 3, 1).values()) == 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_while_writing_at_fifty_points(tmp_path: Path) -> None:
    seen = killed_while_writing(tmp_path, 50, 2)
    print(f"killed at 50 points: {seen}; the input was never changed")
    assert min(seen.values()) >= 1
