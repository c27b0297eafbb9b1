"""The peak of tensors, by hand, wherever it is told: `check`, `compare`; recorded runs beside models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelprobe.model.zoo.index import PACKAGED, open_index
from tests.command_line import CommandLine

NET = "from torch import nn\n\n\ndef net():\n    return nn.Linear(1000, 1000, bias=False)\n"
PEAK = 4 * (1000 * 1000 + 1000 + 1000)
"""Bytes of the weights, the input and the output."""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys)


@pytest.mark.parametrize(("limit", "code"), [(PEAK, 0), (PEAK - 1, 1)])
def test_check_limits_it(cli: CommandLine, limit: int, code: int) -> None:
    answer = cli("check", "net.py:net", "--input", "1x1000", "--max-memory", f"{limit}B", "-f", "json")
    assert answer.code == code, answer.err
    figures = {figure["figure"]: figure["value"] for figure in json.loads(answer.out)["models"][0]["figures"]}
    assert figures["memory"] == PEAK


def test_a_baseline_has_it_where_it_was_asked_for(cli: CommandLine, tmp_path: Path) -> None:
    line = ("check", "net.py:net", "--input", "1x1000", "--baseline", "costs.json")
    assert cli(*line, "--update-baseline").code == 0
    assert "memory" not in json.loads((tmp_path / "costs.json").read_text())["models"]["net.py:net"]
    assert cli(*line).code == 0
    assert cli(*line, "--update-baseline", "--max-memory", "1GB").code == 0
    held = json.loads((tmp_path / "costs.json").read_text())
    assert held["models"]["net.py:net"]["memory"] == PEAK
    held["models"]["net.py:net"]["memory"] -= 1
    (tmp_path / "costs.json").write_text(json.dumps(held))
    assert "4,008,000 bytes at peak" in cli(*line).err


@pytest.mark.zoo
def test_compare_shows_it_and_takes_recorded_runs(cli: CommandLine) -> None:
    line = ("net.py:net", "--input", "1x1000")
    assert cli("flops", *line, "--save-trace", "run.mptrace").code == 0
    found = json.loads(cli("compare", "run.mptrace", "run.mptrace", "-f", "json").out)["models"][0]
    model = json.loads(cli("compare", "net.py:net", *line, "-f", "json").out)["models"][0]
    assert found["memory"] == PEAK
    assert {**found, "target": ""} == {**model, "target": ""}
    refused = cli("compare", "run.mptrace", *line)
    assert refused.code == 2
    assert "--input cannot change the run that run.mptrace holds" in refused.err


def test_the_index_has_it_of_every_network() -> None:
    models = open_index(PACKAGED).models
    assert len(models) > 1400
    for model in models:
        assert model.memory is not None
        assert model.memory > model.parameters  # at least a byte for each
    assert PACKAGED.stat().st_size < 2_000_000
