"""Worker processes: a crash, a hang or too much memory costs one job; rows outlive a kill."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from modelprobe.errors import BadInput
from modelprobe.zoo.journal import Journal
from modelprobe.zoo.workers import Job, JobLimits, run_jobs

HERE = __name__


def double(x: int) -> int:
    print("noise on stdout goes nowhere")
    return 2 * x


def die() -> None:
    os._exit(7)


def hang() -> None:
    time.sleep(60)


def refuse() -> None:
    raise BadInput("not this one")


def grow() -> None:
    held = bytearray(400 * 2**20)
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(30)


def answers(jobs: dict[str, str], **limits: float) -> dict[str, tuple[object, str]]:
    orders = [Job(name, f"{HERE}:{entry}", {"x": 4} if entry == "double" else {}) for name, entry in jobs.items()]
    found = run_jobs(orders, 2, JobLimits(limits.get("seconds"), int(limits["memory"]) if "memory" in limits else None))
    return {answer.key: (answer.value, answer.problem) for answer in found}


@pytest.mark.zoo
def test_what_goes_wrong_costs_one_job() -> None:
    jobs = {"a": "double", "b": "die", "c": "double", "d": "refuse", "e": "hang", "f": "double"}
    assert answers(jobs, seconds=3) == {
        "a": (8, ""), "b": (None, "its process ended with exit code 7"), "c": (8, ""), "d": (None, "not this one"),
        "e": (None, "stopped after 3 s"), "f": (8, ""),
    }  # fmt: skip


@pytest.mark.zoo
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what a process takes")
def test_too_much_memory_costs_one_job() -> None:
    found = answers({"a": "grow", "b": "double"}, memory=300 * 2**20)
    assert found["b"] == (8, "")
    assert found["a"][1].startswith("stopped at 0.")


def test_rows_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(path, {"of": "this"}) as journal:
        journal.append({"n": 1})
        journal.append({"n": 2})
    with path.open("ab") as file:
        file.write(b'{"n": 3, "cut o')  # a kill in the middle of a row
    with Journal(path, {"of": "this"}) as journal:
        assert [row["n"] for row in journal.rows] == [1, 2]
        journal.append({"n": 3})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"of": "this"}, {"n": 1}, {"n": 2}, {"n": 3}]


def test_rows_of_something_else_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(path, {"of": "this"}) as journal:
        journal.append({"n": 1})
    before = path.read_bytes()
    with pytest.raises(BadInput, match="rows of something else"):
        Journal(path, {"of": "that"})
    assert path.read_bytes() == before
    path.write_text("a text\n", encoding="utf-8")
    with pytest.raises(BadInput, match="no file of rows"):
        Journal(path, {"of": "this"})
    with pytest.raises(BadInput, match="cannot write"):
        Journal(tmp_path / "no" / "rows.jsonl", {"of": "this"})
