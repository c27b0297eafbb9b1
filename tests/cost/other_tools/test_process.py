"""Children that misbehave: nothing of what they do reaches us, and each becomes a line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelprobe.cost.other_tools.process import Order, ask_all, free_memory
from modelprobe.cost.other_tools.tool import ToolResult, plain_number
from tests.samples import ROOT


def ask(name: str, timeout: float = 30, **content: object) -> ToolResult:
    return ask_all([Order(name, f"tests.cost.other_tools.fakes:{name}", content)], timeout, workers=1)[name]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("exits", "sys.exit(3) was called"),
        ("raises", "raised LookupError: two lines of \x1b[31mred"),
        ("answers_nonsense", "raised ValueError: its answer is no figure: '4.1 GMac'"),
        ("answers_nan", "raised ValueError: its answer is no figure: 'nan'"),
        ("dies", "its process ended with exit code 7 and no answer"),
        ("is_killed", "its process was ended by SIGKILL, as when memory runs out"),
        ("there_is_no_such_function", "its process ended with exit code 1 and no answer"),
    ],
)
def test_what_goes_wrong_is_a_line(name: str, problem: str) -> None:
    answer = ask(name)
    assert (answer.figure, answer.problem) == (None, problem)


def test_what_a_child_prints_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    answer = ask("prints", number=41)
    assert (answer.figure, answer.problem, answer.place) == (41, "", "cpu")
    assert capfd.readouterr() == ("", "")


def test_a_thread_left_behind_does_not_hold_the_child() -> None:
    assert ask("leaves_a_thread", timeout=20).figure == 1


def test_a_child_that_hangs_is_ended_with_its_own_children(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def told(running, done):  # however slow the machine: the time is up once the child hangs
        if running:
            wait_for(lambda: note.exists() and len(note.read_text().split()) == 2)

    order = Order("hangs", "tests.cost.other_tools.fakes:hangs", {"note": str(note)})
    answer = ask_all([order], 0.1, workers=1, progress=told)["hangs"]
    assert (answer.figure, answer.problem) == (None, "stopped after 0.1 s (--timeout)")
    assert_gone(note)


def test_children_end_when_we_are_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    order = f"Order('hangs', 'tests.cost.other_tools.fakes:hangs', {{'note': {str(note)!r}}})"
    code = f"from modelprobe.cost.other_tools.process import Order, ask_all; ask_all([{order}], 60, workers=1)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_for(lambda: note.exists() and len(note.read_text().split()) == 2)
    parent.kill()
    parent.wait()
    assert_gone(note)
    wait_for(lambda: [path.name for path in tmp_path.iterdir()] == ["note"])  # nothing is left on the disk


def test_nothing_is_left_when_we_are_interrupted(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def told(running, done):
        if running:
            wait_for(lambda: note.exists() and len(note.read_text().split()) == 2)
            raise KeyboardInterrupt

    order = Order("hangs", "tests.cost.other_tools.fakes:hangs", {"note": str(note)})
    with pytest.raises(KeyboardInterrupt):
        ask_all([order], 60, workers=1, progress=told)
    assert_gone(note)


@pytest.mark.zoo
def test_as_many_at_once_as_allowed_and_as_memory_holds() -> None:
    orders = [Order(f"child{i}", "tests.cost.other_tools.fakes:numbers", {"number": i}, needs=10) for i in range(4)]
    for workers, memory, most in ((3, None, 3), (3, 25, 2), (3, 5, 1)):
        seen: list[int] = []
        answers = ask_all(
            orders,
            30,
            workers=workers,
            memory=memory,
            progress=lambda now, _, seen=seen: seen.append(len(now)),
        )
        assert max(seen) == most
        assert [(name, answer.figure) for name, answer in answers.items()] == [(f"child{i}", i) for i in range(4)]


def test_figures_are_plain_numbers() -> None:
    assert plain_number(3.0) == 3
    assert isinstance(plain_number(3.0), int)
    assert plain_number(2.5) == 2.5
    for nonsense in (None, True, float("inf"), "1"):
        with pytest.raises(ValueError, match="no figure"):
            plain_number(nonsense)


def test_free_memory_is_less_than_there_is() -> None:
    found = free_memory()
    assert found is None or 0 < found < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_gone(note: Path) -> None:
    """The processes whose numbers a child left behind have ended."""
    for number in note.read_text().split():
        wait_for(lambda number=number: not is_running(int(number)))


def is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"
