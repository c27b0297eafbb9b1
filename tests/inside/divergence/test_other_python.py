"""B in another Python: the same answers as here, by the same way, and what stands in its way in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from modelprobe.inside.divergence.spill import ValueStore
from tests.command_line import CommandLine, said

NET = """
import os
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.act = nn.GELU("tanh" if os.environ.get("SIDE") == "b" else "none")
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


class Wider(nn.Linear):
    def __init__(self):
        super().__init__(8, 5 if os.environ.get("SIDE") == "b" else 4)


class Fails(Net):
    def forward(self, x):
        if os.environ.get("SIDE") == "b":
            raise ValueError("not there")
        return super().forward(x)
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    _script("other", f'SIDE=b exec "{sys.executable}" "$@"')
    _script("bare", f'exec "{sys.executable}" -I -S "$@"')
    _script("no_python", "echo nothing of use >&2; exit 3")
    return CommandLine(capsys)


def _script(name: str, line: str) -> None:
    Path(name).write_text(f"#!/bin/sh\n{line}\n")
    Path(name).chmod(0o755)


@pytest.mark.zoo
@pytest.mark.parametrize("more", [(), ("--train",)])
def test_the_operator_that_differs_there(cli: CommandLine, more: tuple[str, ...]) -> None:
    answer = cli("diverge", "net.py:Net", "net.py:Net", "--input", "2x8", "--python-b", "./other", "-f", "json", *more)
    assert answer.code == 1, answer.err
    found = json.loads(answer.out)
    assert found["verdict"] == "diverges"
    culprit = found["culprit"]
    assert (culprit["path_b"], culprit["operator"], culprit["reason"]) == ("act", "aten.gelu", "differs in approximate")
    assert [row for row in culprit["arguments"] if row["differs"]] == [
        {"name": "approximate", "a": "'none'", "b": "'tanh'", "differs": True}
    ]
    assert culprit["line_b"].startswith("net.py:")
    assert "(torch " in found["b"]
    assert found["env"]["b"]["python"] == sys.version.split()[0]


@pytest.mark.zoo
def test_equal_there(cli: CommandLine) -> None:
    answer = cli("diverge", "resnet18", "resnet18", "--input", "32", "--python-b", sys.executable, "-f", "json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["verdict"], found["compared"]) == ("equal", found["steps_a"])
    assert found["compared"] > 60


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("model", "python", "code", "message"),
    [
        ("Net", "./bare", 2, "./bare has no"),
        ("Wider", "./other", 2, "net.py:Wider has other weights there"),
        ("Fails", "./other", 2, "Fails raised ValueError on 2x8: not there"),
    ],
)
def test_what_stands_in_its_way_there(cli: CommandLine, model: str, python: str, code: int, message: str) -> None:
    answer = cli("diverge", f"net.py:{model}", f"net.py:{model}", "--input", "2x8", "--python-b", python)
    assert answer.code == code
    assert message in said(answer)


@pytest.mark.parametrize(
    ("python", "message"),
    [("./nowhere", "./nowhere cannot be run"), ("./no_python", "./no_python gave no answer: nothing of use")],
)
def test_what_is_no_python(cli: CommandLine, python: str, message: str) -> None:
    answer = cli("diverge", "net.py:Net", "net.py:Net", "--input", "2x8", "--python-b", python)
    assert answer.code == 2
    assert message in said(answer)


def test_values_that_another_process_reads(tmp_path: Path) -> None:
    import torch

    place, value = tmp_path / "values", torch.arange(6.0).reshape(2, 3)
    with ValueStore(place) as store:
        store.put((3, 0), value)
        store.put((4, 1), torch.ones(2, dtype=torch.bfloat16))
        places, written = store.places(), store.written
    with ValueStore.opened(place, places, written) as other:
        assert torch.equal(other.get((3, 0)), value)
        assert other.get((4, 1)).dtype is torch.bfloat16
        assert other.get((5, 0)) is None
