"""A process that is told to end leaves no half-written file behind, and still ends by that signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.write.convert import convert
from modelprobe.checkpoint.write.plan import FilePlan
from modelprobe.files import atomic
from modelprobe.files.atomic import ENDINGS, unwound

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def ended(number: int, body) -> int:
    """Run `body` in a child, which sends itself the signal; the wait status."""
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
        try:
            body(lambda: os.kill(os.getpid(), number))
        finally:
            os._exit(77)  # a signal that does not end the process ends up here
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("number", ENDINGS)
def test_a_weight_file_half_written(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(100)}, tmp_path / "in.pt")

    def body(end) -> None:
        def emit(self: FilePlan, file) -> dict[str, bytes]:
            file.write(b"half")
            file.flush()
            assert list(tmp_path.glob(".modelprobe-*"))
            end()
            time.sleep(5)
            return {}

        from modelprobe.checkpoint.write.safetensors import SafetensorsPlan

        SafetensorsPlan.emit = emit  # in the child alone
        convert(tmp_path / "in.pt", tmp_path / "out.safetensors")

    status = ended(number, body)
    assert os.waitstatus_to_exitcode(status) == -number
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


def test_a_report_half_written(tmp_path: Path) -> None:
    def body(end) -> None:
        atomic.os.fsync = lambda handle: (end(), time.sleep(5))  # in the child alone
        atomic.atomic_write(tmp_path / "report.json", "{}")

    assert os.waitstatus_to_exitcode(ended(signal.SIGTERM, body)) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_put_back() -> None:
    def own(number: int, frame: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with unwound():
            assert signal.getsignal(signal.SIGTERM) is own  # somebody else's stays
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with unwound():
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            with unwound():
                pass
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_left_alone() -> None:
    seen = []

    def body() -> None:
        with unwound():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]
