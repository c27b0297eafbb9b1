"""`--help` of every command: its examples work, its switches are plain, and removed options name their successors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.file_names import SAVE_FORMATS
from modelprobe.cli.app import COMMANDS, REMOVED, application, load_command, main
from modelprobe.cost.conventions import CONVENTIONS, OWN_CONVENTION
from modelprobe.cost.flops import By
from modelprobe.cost.optimizers.known import OPTIMIZERS
from modelprobe.cost.tables import TRAINING_GROUPINGS
from modelprobe.report.formats import RENDERERS
from tests.samples import ROOT

NAMES = [name for name, *_ in COMMANDS]


def examples() -> Iterator[Any]:
    """Every example of every command's `--help`; every day the first of each but `reconcile`'s, which starts tools."""
    for name in NAMES:
        for number, line in enumerate(load_command(name).EXAMPLES):
            marks = [pytest.mark.zoo] if number or name == "reconcile" else []
            yield pytest.param(line, marks=marks, id=line[:60])


@pytest.mark.zoo
@pytest.mark.parametrize("line", list(examples()))
def test_the_examples_of_help_work(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    program, *arguments = shlex.split(line)
    assert program == "modelprobe"
    assert main(arguments) in ((0, 1) if arguments[0] in ("diff", "keys") else (0,))  # which say that something differs


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert 2 <= len(load_command(name).EXAMPLES) <= 3
    assert "Examples:" in text
    assert "<bool>" not in text
    panels = re.findall(r"^╭─ (.+?) ─", text, re.MULTILINE)
    assert panels[-1] == "Rare options"


@pytest.mark.parametrize(("command", "option"), REMOVED)
def test_a_removed_option_names_what_takes_its_place(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "resnet18", option]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {command} has no option {option}"
    assert hint == f"hint: {REMOVED[command, option]}"


@pytest.mark.parametrize(
    ("command", "option", "table"),
    [
        ("flops", "--convention", (OWN_CONVENTION, *CONVENTIONS)),
        ("training", "--optimizer", tuple(OPTIMIZERS)),
        ("flops", "--format", tuple(RENDERERS)),
        ("flops", "--by", get_args(By)),
        ("training", "--by", TRAINING_GROUPINGS),
        ("convert", "--to", SAVE_FORMATS),
        ("repair", "--to", SAVE_FORMATS),
        ("repair", "--dtype", FLOATING_DTYPES),
        ("flops", "--dtype", FLOATING_DTYPES),
    ],
)
def test_a_list_on_the_command_line_is_the_table_it_stands_for(
    command: str, option: str, table: tuple[str, ...]
) -> None:
    group: Any = typer.main.get_command(application(command))
    shown = [param.metavar for param in group.commands[command].params if option in param.opts]
    assert [metavar.split("|") for metavar in shown] == [list(table)]
