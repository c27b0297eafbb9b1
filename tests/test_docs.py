"""The README and the guide tell the truth: every `$ modelprobe …` in them runs, and prints what stands under it; every
Python block runs.

`pytest tests/test_docs.py --update-golden` writes what the commands print now into the documents.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelprobe.cli.app import COMMANDS, main
from modelprobe.cost.other_tools import OTHER_TOOLS
from modelprobe.guide import chapters
from tests.samples import ROOT
from tests.sampling import sampled

DOCUMENTS = (ROOT / "README.md", *chapters().values())
OLDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13)
"""Older releases write some of their own modules with other operators: the commands run, their counts may differ."""

FINDS = tuple(f"modelprobe {command} " for command in ("diff", "keys", "diverge", "health"))
"""Commands whose examples find something: exit code 1."""

BLOCK = re.compile(r"^```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```bash\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def transcripts() -> Iterator[Any]:
    """(document, command line, what the document shows under it; empty where it shows nothing)."""
    for path in DOCUMENTS:
        for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
            for part in re.split(r"^\$ ", block["body"], flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                if command.startswith("modelprobe "):
                    yield marked(path, command, shown)


def marked(path: Path, command: str, shown: str) -> Any:
    """`reconcile` starts every tool there is, in processes of their own: not every day."""
    live = command.startswith("modelprobe reconcile")
    missing = live and not all(tool.installed for tool in OTHER_TOOLS.values())
    marks = [pytest.mark.zoo, pytest.mark.skipif(missing, reason="not all tools are installed")] if live else []
    return pytest.param(path, command, shown, marks=marks, id=f"{path.stem}: {command[11:60]}")


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line prints on stdout; `| head -N` is understood."""
    words, _, rest = command.partition(" | ")
    code = main(shlex.split(words)[1:])
    out = capsys.readouterr().out
    assert code == (1 if words.startswith(FINDS) else 0), command
    if rest:
        assert rest.startswith("head -"), rest
        out = "".join(out.splitlines(keepends=True)[: int(rest.removeprefix("head -"))])
    return out


@pytest.mark.parametrize(("path", "command", "shown"), sampled(list(transcripts()), 4, pytest.mark.zoo))
def test_commands_print_what_the_documents_show(
    path: Path,
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
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"$ {command}\n{shown}", f"$ {command}\n{out}"), encoding="utf-8")
    elif shown.strip() and not OLDER:
        assert out == shown


def python_blocks() -> list[Any]:
    return [
        pytest.param(block["body"], id=f"{path.stem}-{number}")
        for path in DOCUMENTS
        for number, block in enumerate(PYTHON.finditer(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("body", python_blocks())
def test_python_examples_run(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(body, "guide", "exec"), {"__name__": "guide"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_option_that_is_named_exists(path: Path) -> None:
    """In lines that are shown but not run (an address, a bucket): the command and its options are real."""
    import typer

    from modelprobe.cli.app import application

    group: Any = typer.main.get_command(application(None))
    for block in SHELL.finditer(path.read_text(encoding="utf-8")):
        for line in block["body"].splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["modelprobe"]:
                continue
            known = {name for param in group.commands[words[1]].params for name in (*param.opts, *param.secondary_opts)}
            assert [word for word in words[2:] if word.startswith("-") and word not in known] == [], line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_and_named_files_exist(path: Path) -> None:
    """Links and pictures from where the document stands; files named in the text, but for those a recipe creates."""
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (path.parent / link).exists()] == []
    created = set(re.findall(r"^```\w+ file=(\S+)", text, re.MULTILINE))
    named = set(re.findall(r"\b(?:tests|samples|modelprobe)/[\w/]+\.(?:py|md|png|pth)\b", text))
    assert sorted(file for file in named - created if not (ROOT / file).exists()) == []
    modules = set(re.findall(r"python -m (tests[\w.]*)", text))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize(("name", "path"), chapters().items())
def test_the_list_of_chapters_fits_a_terminal(name: str, path: Path) -> None:
    title = path.read_text(encoding="utf-8").partition("\n")[0]
    assert title.startswith("# ")
    assert len(title.removeprefix("# ")) <= 56, "`modelprobe guide` cuts it in 80 columns"


def test_there_is_an_example_of_every_command() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    used = set(re.findall(r"^(?:\$ )?modelprobe (\w+)", text, re.MULTILINE))
    assert {name for name, *_ in COMMANDS} <= used


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220
