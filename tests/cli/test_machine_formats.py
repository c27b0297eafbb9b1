"""What programs read is whole: every row, under its full path, whatever fits a screen."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from modelprobe.cli.app import main
from tests.samples import ROOT

NET = "resnet18"
MODULES = 68


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*line: str) -> str:
        assert main(list(line)) == 0
        return capsys.readouterr().out

    return run


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.zoo
@pytest.mark.parametrize(("command", "rows"), [("flops", "rows"), ("summary", "layers"), ("training", "rows")])
def test_every_module_is_there_under_its_path(command: str, rows: str, told: Any) -> None:
    found = json.loads(told(command, NET, "--input", "64", "-f", "json"))
    assert len(found[rows]) == MODULES
    assert found["hidden"] == 0
    paths = [row["path"] for row in found[rows]]
    assert len(set(paths)) == MODULES
    assert "layer4.0.downsample.1" in paths
    lines = table(told(command, NET, "--input", "64", "-f", "csv"))
    assert [line["path"] for line in lines] == paths


def test_leaves_of_a_csv_add_up(told: Any) -> None:
    lines = table(told("flops", NET, "--input", "64", "-f", "csv"))
    paths = [line["path"] for line in lines]
    leaves = [line for line in lines if not any(path.startswith(f"{line['path']}.") for path in paths if line["path"])]
    whole = int(lines[0]["macs"])
    assert sum(int(line["macs"]) for line in leaves if line["path"]) == whole


def test_depth_that_is_asked_for_is_kept(told: Any) -> None:
    assert len(json.loads(told("flops", NET, "--depth", "1", "-f", "json"))["rows"]) == 11
    assert len(table(told("params", NET, "--depth", "1", "-f", "csv"))) == 8


def test_a_screen_shows_less(told: Any) -> None:
    assert "more rows below depth" in told("training", NET, "--input", "64")


def test_every_buffer(told: Any) -> None:
    assert len(table(told("buffers", NET, "-f", "csv"))) == 60


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_diff_has_one_schema_whatever_the_answer(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (str(ROOT / "samples" / f"{name}.pth") for name in ("digit_cnn", "digit_vit"))
    found = []
    for pair in ((one, one), (one, other)):
        main(["diff", *pair, "-f", format])
        text = capsys.readouterr().out
        found.append(table(text) if format == "csv" else [json.loads(line) for line in text.splitlines()])
    same, apart = found
    assert list(same[0]) == list(apart[0])
    assert {row["status"] for row in same} == {"identical"}
    assert len(same) == 26
    assert len(apart) == 26 + 47 - 1, "one is renamed"
    assert {row["status"] for row in apart} == {"different", "removed", "added"}


@pytest.mark.zoo
def test_equal_blocks_are_one_row_on_a_screen_alone(told: Any) -> None:
    assert "encoder_layer_0-11 x12" in told("params", "vit_b_16")
    assert "encoder_layer_7 " in told("params", "vit_b_16", "--no-fold")
    paths = [row["path"] for row in table(told("params", "vit_b_16", "-f", "csv"))]
    assert "encoder.layers.encoder_layer_7.mlp.3" in paths
    screen = told("buffers", "swin_t")
    assert "x12" in screen
    assert screen.count("relative_position_index") == 1
    assert told("buffers", "swin_t", "--all").count("relative_position_index") == 12
    assert len(table(told("buffers", "swin_t", "-f", "csv"))) == 12


def test_env_says_all_it_knows(told: Any) -> None:
    facts = {line["fact"] for line in table(told("env", "-f", "csv"))}
    assert {"modelprobe", "Python", "torch", "OS", "CPU", "cpu"} <= facts


@pytest.mark.zoo
def test_a_page_holds_every_row(told: Any) -> None:
    for command in ("flops", "summary", "params"):
        line = (command, NET, *(("--input", "64") if command != "params" else ()))
        rows = told(*line, "-f", "html").count('<tr data-depth="')
        assert rows == len(table(told(*line, "-f", "csv"))), command
        assert rows > 50
