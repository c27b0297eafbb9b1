"""Budgets: limits, baselines, what CI takes of them, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import modelprobe
from modelprobe.cli.app import main
from modelprobe.errors import BadInput
from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import models

CNN = f"{SAMPLES}:TinyCNN"
PARAMETERS = 1570  # 3 x 8 x 9; 2 x 8; 8 x 16 x 9 + 16; 16 x 10 + 10
MACS = 221_184 + 294_912 + 160  # of 32 x 32: 32 x 32 x 8 x 27; 16 x 16 x 16 x 72; 16 x 10


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("COLUMNS", "200")
    return CommandLine(capsys)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ((f"--max-params={PARAMETERS}", f"--max-gmacs={MACS / 1e9}"), 0),
        ((f"--max-params={PARAMETERS - 1}",), 1),
        (("--max-gmacs=0.5M",), 1),
        (("--max-gmacs=1M", "--max-activations=1k"), 1),
    ],
)
def test_limits(cli: CommandLine, limits: tuple[str, ...], code: int) -> None:
    answer = cli("check", CNN, "-i", "1x3x32x32", *limits)
    assert answer.code == code
    assert ("exceed the limit" in answer.err) == bool(code)


def test_every_breach_is_a_line(cli: CommandLine) -> None:
    answer = cli("check", CNN, "-i", "1x3x32x32", "--max-params", "1k", "--max-gmacs", "0.5M", "-f", "json")
    assert sum("exceed the limit" in line for line in answer.err.splitlines()) == 2
    assert "--update-baseline" not in answer.err  # it changes no limit
    found = json.loads(answer.out)
    assert (found["passed"], len(found["breaches"])) == (False, 2)


def test_a_baseline_notices_what_became_dearer(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    line = ("check", CNN, "-i", "1x3x32x32", "--baseline", str(file))
    assert cli(*line, "--update-baseline").code == 0
    assert cli(*line).code == 0
    held = json.loads(file.read_text())
    held["models"][CNN]["macs"] = MACS - 5000  # 0.98 % less
    file.write_text(json.dumps(held))
    answer = cli(*line)
    assert answer.code == 1
    assert f"{MACS:,} MACs are 0.98% more than the {MACS - 5000:,} in {file}" in answer.err
    assert "--update-baseline accepts what grew" in answer.err
    assert cli(*line, "--tolerance", "1%").code == 0
    assert cli(*line, "--update-baseline").code == 0
    assert json.loads(file.read_text())["models"][CNN]["macs"] == MACS


def test_an_update_keeps_the_other_models(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    for name in ("TinyCNN", "TinyAttention"):
        assert cli("check", f"{SAMPLES}:{name}", "--baseline", str(file), "--update-baseline").code == 0
    assert len(json.loads(file.read_text())["models"]) == 2


@pytest.mark.zoo
def test_what_a_baseline_is_refused_for(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    line = ("check", CNN, "-i", "1x3x32x32", "--baseline", str(file))
    assert f"there is no baseline {file} | --update-baseline writes it" in said(cli(*line))
    cli(*line, "--update-baseline")
    assert "not of resnet18 | --update-baseline adds it" in said(cli("check", "resnet18", "--baseline", str(file)))
    other = cli("check", CNN, "-i", "1x3x64x64", "--baseline", str(file))
    assert "was made with the input" in said(other)
    file.write_text('{"schema": "modelprobe.baseline/99"}')
    assert "is no baseline of this modelprobe (its schema: modelprobe.baseline/99)" in said(cli(*line))
    file.write_text("{")
    assert "cannot be read" in said(cli(*line))
    assert "has no file to write" in said(cli("check", CNN, "--update-baseline"))


@pytest.mark.parametrize("options", [["--max-params", "many"], ["--max-gmacs", ""], ["--tolerance", "a bit"]])
def test_budgets_that_do_not_parse(cli: CommandLine, options: list[str]) -> None:
    assert f"{options[0]} {options[1]!r}" in said(cli("check", CNN, *options))


def test_what_ci_takes(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    junit = tmp_path / "check.xml"
    answer = cli("check", CNN, "-i", "1x3x32x32", "--max-params", "1k", "--junit", str(junit), "--github")
    assert "::error title=modelprobe check::" in answer.err
    assert "| parameters | 1,570 |" in (tmp_path / "summary.md").read_text().replace(f"| {CNN} ", "")
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), len(suite.findall("*/failure"))) == ("4", "1", 1)


def test_nothing_to_check_is_no_pass(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, hint = said(cli("check", CNN, "-i", "1x3x32x32", "--tolerance", "1%")).split(" | ")
    assert text == f"nothing to check of {CNN}: it has no limit and no baseline"
    limit, update = hint.partition(";")[0].split(", or ")
    for options in (limit, update):  # the hint works
        assert cli("check", CNN, "-i", "1x3x32x32", *options.split()).code == 0
    Path("pyproject.toml").write_text(
        f'[[tool.modelprobe.check]]\ntarget = "{CNN}"\nmax-params = "2k"\n'
        f'[[tool.modelprobe.check]]\ntarget = "{SAMPLES}:Shared"\n'
    )
    refused = said(cli("check"))
    assert f"nothing to check of {SAMPLES}:Shared" in refused
    assert 'in pyproject.toml, max-params = "25M"' in refused


def test_checks_of_a_project(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no TARGET" in said(cli("check"))
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'x'\n")
    assert "has no [tool.modelprobe.check]" in said(cli("check"))
    project.write_text(f'[[tool.modelprobe.check]]\ntarget = "{CNN}"\ninput = "1x3x32x32"\nmax-params = "2k"\n')
    assert cli("check").code == 0
    assert "needs a TARGET" in said(cli("check", "--max-params", "1"))
    assert "--baseline needs a TARGET" in said(cli("check", "--baseline", "costs.json"))
    assert "--input needs a TARGET" in said(cli("check", "--input", "32"))
    project.write_text(f'[tool.modelprobe.check]\ntarget = "{CNN}"\nmax-parms = 1\n')
    assert "no key 'max-parms' | did you mean max-params?" in said(cli("check"))
    project.write_text(f'[tool.modelprobe.check]\ntarget = "{CNN}"\nmax-params = 1000\n')
    assert cli("check").code == 1


def test_in_a_projects_own_tests(assert_cost) -> None:
    image = torch.zeros(1, 3, 32, 32)
    assert_cost(models.TinyCNN(), image, max_macs=MACS, max_parameters=PARAMETERS)
    with pytest.raises(AssertionError, match="1,570 parameters exceed the limit of 1,569"):
        modelprobe.assert_cost(models.TinyCNN(), image, max_parameters=PARAMETERS - 1)
    with pytest.raises(BadInput, match="no limit"):
        modelprobe.assert_cost(models.TinyCNN(), image)


def test_what_the_recording_may_lack_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "listed.py").write_text(LISTED)
    command = ["check", f"{tmp_path}/listed.py:Net", "--input", "1x8", "--max-params", "1k"]
    assert main(command) == 0
    assert "they are in no count of parameters" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--strict"]) == 3


LISTED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = [nn.Linear(8, 8)], nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.inner[0](x))
"""
