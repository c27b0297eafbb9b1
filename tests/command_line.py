"""Run a command line in this process, and what every refusal has in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelprobe.cli.app import main
from tests.samples import ROOT

SAMPLES = f"{ROOT / 'samples' / 'models.py'}"


@dataclass(frozen=True)
class Answer:
    """What a command line gave."""

    code: int
    out: str
    err: str


class CommandLine:
    """`cli("flops", "resnet18")` -> exit code, stdout, stderr."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        self.capsys.readouterr()
        code = main(arguments)
        printed = self.capsys.readouterr()
        return Answer(code, printed.out, printed.err)


def said(answer: Answer, printed: Sequence[str] = ()) -> str:
    """The one line of an error and its hint, joined by ` | `; nothing else may stand on stderr but `printed` lines."""
    assert answer.out == ""
    assert "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if line not in printed]
    assert len(lines) == 2, answer.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", answer.err)
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return f"{lines[0].removeprefix('error: ')} | {lines[1].removeprefix('hint: ')}"
