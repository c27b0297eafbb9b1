"""`repair` and `convert` lose no file: killed or interrupted at any moment, no room, no permission, modes kept."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import stat
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from modelprobe.cli.app import main
from tests.checkpoint.writing import snapshot
from tests.command_line import CommandLine

COMMANDS = {"repair": ["repair"], "convert": ["convert"]}
SUFFIXES = (".pt", ".safetensors")
Usage = namedtuple("Usage", "total used free")
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A wrapped state_dict of 16 MiB, so that writing it takes a while."""
    (tmp_path / "in").mkdir()
    state = {f"module.w{number}": torch.full((1 << 19,), float(number)) for number in range(8)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "in" / "x.pt")
    return tmp_path / "in" / "x.pt"


def quietly(arguments: list[str]) -> int:
    """Run a command line in a child of this process, which says nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return main(arguments)


def stopped(arguments: list[str], after: float, how: int) -> int:
    """Start a command in a child, send it a signal after a while, and wait; the exit code, negative for the signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = quietly(arguments)
        finally:
            os._exit(code)
    time.sleep(after)
    os.kill(child, how)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended_early(command: str, suffix: str, source: Path, points: int, how: int, seed: int) -> dict[str, int]:
    """How often the output was absent, old, or new and whole; every other file must be as it was."""
    folder = source.parent
    expected, out = folder / f"expected{suffix}", folder / f"out{suffix}"
    assert main([*COMMANDS[command], str(source), "-o", str(expected)]) == 0
    started = time.perf_counter()
    assert main([*COMMANDS[command], str(source), "-o", str(expected), "--force"]) == 0
    length = time.perf_counter() - started
    before = snapshot(folder)
    rng, seen = random.Random(seed), {"absent": 0, "old": 0, "new": 0}
    for point in range(points):
        out.unlink(missing_ok=True)
        if point % 2:
            out.write_bytes(b"old")
        code = stopped([*COMMANDS[command], str(source), "-o", str(out), "--force"], rng.uniform(0, 1.3 * length), how)
        left = list(folder.glob(".modelprobe-*"))
        assert how == signal.SIGKILL or not left
        assert code in (0, -signal.SIGKILL, 130)
        for leftover in left:
            leftover.unlink()
        after = snapshot(folder)
        state = after.pop(out.name, None)
        assert after == before
        kind = "absent" if state is None else "new" if state == before[expected.name] else "old"
        assert kind != "old" or out.read_bytes() == b"old"
        assert kind != "absent" or not point % 2
        assert code != 0 or kind == "new"
        seen[kind] += 1
    return seen


@pytest.mark.zoo
@forking
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted(command: str, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(ended_early(command, ".pt", source, 2, signal.SIGINT, 1).values()) == 2


@forking
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("command", COMMANDS)
def test_ended_at_fifty_points(command, suffix, how, source, capfd, record_property) -> None:
    seen = ended_early(command, suffix, source, 50, how, 2)
    record_property("figure ended while writing", {"points": 50, "input changed": 0, **seen})
    assert min(seen["new"], seen["absent"] + seen["old"]) >= 1


def limited(arguments: list[str], nbytes: int) -> int:
    """The exit code of a command that may write files of so many bytes at most: the kernel refuses the next byte."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
            code = quietly(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.zoo
@forking
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_room_at_any_byte(command, suffix, source) -> None:
    out = source.with_name(f"out{suffix}")
    out.write_bytes(b"old")
    before = snapshot(source.parent)
    for nbytes in (0, 100, 1 << 20, 10 << 20, 16 << 20):
        assert limited([*COMMANDS[command], str(source), "-o", str(out), "--force"], nbytes) == 2
        assert snapshot(source.parent) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_no_room_is_known_beforehand(command, source, cli, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 4096))
    before = snapshot(source.parent)
    answer = cli(*COMMANDS[command], str(source), "-o", str(source.with_name("out.pt")))
    assert (answer.code, answer.out) == (2, "")
    assert "free" in answer.err
    assert snapshot(source.parent) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_that_cannot_be_written_to(command, source, cli, monkeypatch) -> None:
    locked = source.parent / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # to whom nothing is forbidden
        opened = Path.open

        def refuse(self: Path, mode: str = "r", *rest: object, **more: object):
            if "x" in mode:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return opened(self, mode, *rest, **more)

        monkeypatch.setattr(Path, "open", refuse)
    else:
        locked.chmod(0o500)
    answer = cli(*COMMANDS[command], str(source), "-o", str(locked / "out.pt"))
    assert (answer.code, answer.out) == (2, "")
    assert "permission denied" in answer.err.lower()
    assert list(locked.iterdir()) == []


@pytest.mark.zoo
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_mode_of_the_output(command, suffix, source, cli) -> None:
    out, before = source.with_name(f"out{suffix}"), os.umask(0o027)
    source.chmod(0o604)
    try:
        assert cli(*COMMANDS[command], str(source), "-o", str(out)).code == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o640  # as the umask says
        out.chmod(0o600)
        assert cli(*COMMANDS[command], str(source), "-o", str(out), "--force").code == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o600  # of the file that it replaces
    finally:
        os.umask(before)
    assert stat.S_IMODE(source.stat().st_mode) == 0o604
