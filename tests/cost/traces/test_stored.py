"""Runs that were recorded before: the same answer without the model, and none that has become wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import modelprobe.__main__ as program
from modelprobe.files.store import Store
from modelprobe.model import build
from tests.command_line import CommandLine
from tests.samples import ROOT

FROM_STORE = "answered from the store"
NET = "from width import WIDTH\nfrom torch import nn\n\n\ndef net():\n    return nn.Linear(8, WIDTH)\n"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(autouse=True)
def store_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MODELPROBE_STORE", "1")
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that were built."""
    targets: list[str] = []
    load = build.load_model

    def counted(request: Any) -> Any:
        targets.append(request.target)
        return load(request)

    monkeypatch.setattr(build, "load_model", counted)
    return targets


QUESTIONS = (
    ["flops", "resnet18", "--input", "64"],
    ["flops", "alexnet", "--convention", "fvcore", "--mode", "train", "--batch", "2"],
    ["summary", "timm:resnet10t", "--depth", "2"],
    ["training", "squeezenet1_1", "--input", "64", "--optimizer", "adam"],
    ["memory", "resnet18", "--train", "--input", "64", "--batch", "2", "--device", "cuda"],
)


@pytest.mark.zoo
@pytest.mark.parametrize("line", QUESTIONS, ids=lambda line: " ".join(line[:2]))
def test_the_second_time_the_model_is_not_built_and_the_answer_is_the_same(
    line: list[str], cli: CommandLine, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cli(*line, "-f", "json"), cli(*line, "-f", "json")
    assert first.code == second.code == 0, first.err
    assert built == [line[1]]
    assert FROM_STORE not in first.err
    assert second.err.count("\n") == 1
    assert FROM_STORE in second.err
    monkeypatch.setenv("MODELPROBE_STORE", "0")
    without = cli(*line, "-f", "json")
    assert FROM_STORE not in without.err
    assert first.out == second.out == without.out


def test_other_questions_of_the_same_run_are_answered_too(cli: CommandLine, built: list[str]) -> None:
    cli("flops", "resnet18")
    assert FROM_STORE in cli("flops", "resnet18", "--by", "operator").err
    assert FROM_STORE in cli("summary", "resnet18").err
    assert built == ["resnet18"]


@pytest.mark.zoo
def test_what_changes_the_run_makes_another_one(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("flops", "resnet18")
    for more in (["--input", "96"], ["--batch", "2"], ["--mode", "train"], ["--set", "num_classes=7"], ["--seed", "1"],
                 ["--dtype", "bfloat16"]):  # fmt: skip
        assert FROM_STORE not in cli("flops", "resnet18", *more).err, more
    monkeypatch.setenv("TIMM_FUSED_ATTN", "0")
    assert FROM_STORE not in cli("flops", "resnet18").err


@pytest.mark.zoo
def test_fresh_records_anew(cli: CommandLine, built: list[str]) -> None:
    for more in ([], ["--fresh"], []):
        cli("flops", "resnet18", *more)
    assert built == ["resnet18", "resnet18"]


@pytest.mark.zoo
def test_code_of_the_users_own_is_kept_on_request_until_a_file_changes(
    cli: CommandLine, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(NET)
    (tmp_path / "width.py").write_text("WIDTH = 16\n")
    monkeypatch.chdir(tmp_path)
    line = ["flops", "own.py:net", "--input", "1x8", "-f", "json"]
    for _ in range(2):
        cli(*line)
    assert len(built) == 2
    assert not (tmp_path / "cache").exists()  # nothing was kept
    first, second = cli(*line, "--keep"), cli(*line, "--keep")
    assert len(built) == 3
    assert FROM_STORE in second.err
    assert first.out == second.out
    assert FROM_STORE not in cli(*line).err  # without --keep it is not looked up
    (tmp_path / "width.py").write_text("WIDTH = 32\n")
    sys.modules.pop("width", None)
    changed = cli(*line, "--keep")
    assert FROM_STORE not in changed.err
    assert changed.out != first.out


def test_a_file_or_directory_of_a_models_name_is_not_answered_for_it(
    cli: CommandLine, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("flops", "alexnet")
    (tmp_path / "alexnet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert FROM_STORE not in cli("flops", "alexnet").err


def test_a_damaged_entry_is_said_and_replaced(cli: CommandLine, store_on: Path, built: list[str]) -> None:
    good = cli("flops", "alexnet", "-f", "json")
    for path in (store_on / "store").glob("*.mps"):
        path.write_bytes(path.read_bytes()[:-3])
    told = cli("flops", "alexnet", "-f", "json")
    assert "its checksum is wrong; it is recorded anew" in told.err
    again = cli("flops", "alexnet", "-f", "json")
    assert built == ["alexnet", "alexnet"]
    assert FROM_STORE in again.err
    assert again.out == told.out == good.out


def test_a_cache_directory_that_cannot_be_written_is_said_once(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "file"))
    answer = cli("flops", "alexnet", "-f", "json")
    assert answer.code == 0
    assert answer.err.count("cannot be written") == 1
    assert answer.err.count("\n") == 1
    monkeypatch.setenv("MODELPROBE_STORE", "0")
    assert answer.out == cli("flops", "alexnet", "-f", "json").out


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command line from its very start."""

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["modelprobe", *arguments])
        code = program.start()
        return SimpleNamespace(code=code, **dict(zip(("out", "err"), capsys.readouterr(), strict=True)))

    return run


def test_the_same_command_line_is_answered_before_the_command_is_loaded(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = started("flops", "alexnet")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "modelprobe.cli.app", None)  # importing it raises
        second = started("flops", "alexnet")
    assert second.code == 0
    assert FROM_STORE in second.err
    assert second.out == first.out
    monkeypatch.setenv("COLUMNS", "60")
    narrow = started("flops", "alexnet")
    assert narrow.out != first.out
    assert FROM_STORE in narrow.err


def test_an_answer_goes_with_its_run(started: Any, built: list[str], tmp_path: Path) -> None:
    """What was recorded anew or removed takes the texts of every command line with it."""
    started("flops", "alexnet", "-f", "json")
    started("flops", "alexnet", "--fresh")
    assert len(built) == 2
    answered = started("flops", "alexnet", "-f", "json")  # from the new run
    assert FROM_STORE in answered.err
    assert len(built) == 2
    for entry in Store().entries():
        if entry.about["what"] == "flops":
            entry.path.unlink()
    assert FROM_STORE not in started("flops", "alexnet", "-f", "json").err
    assert len(built) == 3


@pytest.mark.zoo
def test_what_writes_files_is_done_every_time(started: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert started("flops", "alexnet", "--save-trace", str(tmp_path / f"{name}.mptrace")).code == 0
        assert started("flops", "alexnet", "-o", str(tmp_path / f"{name}.json")).code == 0
        assert started("memory", "alexnet", "--plot", str(tmp_path / f"{name}.png")).code == 0
    for suffix in ("mptrace", "json", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_strict_fails_the_second_time_as_well(started: Any) -> None:
    line = ("flops", "alexnet", "--strict")
    assert started(*line).code == started(*line).code


@pytest.mark.zoo
def test_a_reader_that_leaves_gets_no_traceback() -> None:
    line = f"{sys.executable} -m modelprobe summary resnet50 -f json | head -c 10"
    for _ in range(2):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT)
        assert "Traceback" not in done.stderr
        assert "rror" not in done.stderr


@pytest.mark.zoo
def test_a_library_whose_file_is_edited_gives_its_own_answer(tmp_path: Path) -> None:
    """A copy of torchvision ahead of the installed one: its answer is never that of another state of its files."""
    import shutil

    import torchvision

    home = Path(torchvision.__file__).parent
    copy = tmp_path / "torchvision"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip

    def asked() -> tuple[str, bool]:
        line = [sys.executable, "-m", "modelprobe", "flops", "alexnet", "-f", "json"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        return done.stdout, FROM_STORE in done.stderr

    first, _ = asked()
    assert asked() == (first, True)
    file = copy / "models" / "alexnet.py"
    text = file.read_text()
    edited = text.replace("kernel_size=11, stride=4, padding=2", "kernel_size=11, stride=8, padding=2")
    assert edited != text
    file.write_text(edited)
    second, stored = asked()
    assert not stored
    assert second != first
    assert asked() == (second, True)
