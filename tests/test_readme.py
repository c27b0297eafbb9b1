"""The README tells the truth: every `$ modelprobe …` in it runs, and prints what stands under it.

`pytest tests/test_readme.py --update-golden` writes what the commands print now into the README.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from modelprobe.cli.app import main
from modelprobe.cost.peers import PEERS
from tests.samples import ROOT

README = ROOT / "README.md"
OLDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13)
"""Older releases write some of their own modules with other operators: the commands run, their counts may differ."""

BLOCK = re.compile(r"^```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def transcripts() -> list[tuple[str, str]]:
    """(command line, what the README shows under it; empty where it shows nothing)."""
    found = []
    for block in BLOCK.finditer(README.read_text(encoding="utf-8")):
        parts = re.split(r"^\$ ", block["body"], flags=re.MULTILINE)[1:]
        found += [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]
    return [(command, shown) for command, shown in found if command.startswith("modelprobe")]


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line prints on stdout; `| head -N` is understood."""
    words, _, rest = command.partition(" | ")
    code = main(shlex.split(words)[1:])
    out = capsys.readouterr().out
    assert code == (1 if words.startswith("modelprobe diff ") else 0), command  # which says that they differ
    if rest:
        assert rest.startswith("head -"), rest
        out = "".join(out.splitlines(keepends=True)[: int(rest.removeprefix("head -"))])
    return out


def marked(command: str, shown: str) -> Any:
    """`reconcile` starts every tool there is, in processes of their own: not every day."""
    live = " reconcile " in command
    missing = live and not all(peer.installed for peer in PEERS.values())
    marks = [pytest.mark.zoo, pytest.mark.skipif(missing, reason="not all tools are installed")] if live else []
    return pytest.param(command, shown, marks=marks, id=command[:60])


@pytest.mark.parametrize(("command", "shown"), [marked(*pair) for pair in transcripts()])
def test_commands_print_what_the_readme_shows(
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    out = printed(command, capsys)
    if shown.strip() and request.config.getoption("--update-golden"):
        text = README.read_text(encoding="utf-8")
        README.write_text(text.replace(f"$ {command}\n{shown}", f"$ {command}\n{out}"), encoding="utf-8")
    elif shown.strip() and not OLDER:
        assert out == shown


@pytest.mark.parametrize("body", [block["body"] for block in PYTHON.finditer(README.read_text(encoding="utf-8"))])
def test_python_examples_run(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(body, "README.md", "exec"), {"__name__": "readme"})


def test_there_is_an_example_of_every_command() -> None:
    from modelprobe.cli.app import COMMANDS

    shown = re.findall(r"^(?:\$ )?modelprobe (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    used = set(shown)
    assert {name for name, *_ in COMMANDS} <= used
