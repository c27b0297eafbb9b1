"""Measured peaks: kept in the cache, shown by `env`, and what a run achieves of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cli.app import main
from modelprobe.cost.timing import peaks


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, int]]:
    """Peaks without measuring, in a cache of the test's own; what was asked for is noted."""
    asked: list[tuple[str, str, int]] = []

    def measured(*what: object) -> tuple[float, float, float]:
        asked.append(what)  # type: ignore[arg-type]
        return 2e11, 1e10, 1e-6

    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(peaks, "measure_peaks", measured)
    return asked


@pytest.mark.zoo
def test_a_product_and_a_copy_are_measured() -> None:
    threads = torch.get_num_threads()
    flops, traffic, launch = peaks.measure_peaks("cpu", "float32", 1)
    assert 1e8 < flops < 1e13
    assert 1e8 < traffic < 1e12
    assert 1e-7 < launch < 1e-3
    assert torch.get_num_threads() == threads


def test_peaks_are_measured_once_per_device_dtype_and_threads(
    quick: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = peaks.peaks_of("cpu", "float32", 1)
    assert first is not None
    assert first == peaks.peaks_of("cpu", "float32", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    peaks.peaks_of("cpu", "float32", 2)
    peaks.peaks_of("cpu", "bfloat16", 1)
    assert quick == [("cpu", "float32", 1), ("cpu", "float32", 2), ("cpu", "bfloat16", 1)]
    assert len(peaks.read_peaks()) == 3
    assert peaks.peaks_of("cpu", "complex64", 1) is None
    assert peaks.peaks_of("cpu", "float32", 3) is None  # more than there are cores
    (tmp_path / "cache" / "peaks.json").write_text('{"schema": "modelprobe.peaks/1", "peaks": [{"kind": 1}]}')
    assert peaks.read_peaks() == ()  # damaged: measured again
    assert peaks.peaks_of("cpu", "float32", 1) == first


def test_a_cache_that_cannot_be_written_is_no_error(
    quick: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "file"))
    assert peaks.peaks_of("cpu", "float32", 1) is not None


def test_env_shows_them_when_they_are_known(
    quick: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["peaks"] == []
    assert main(["env", "--peaks", "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["peaks"]
    assert [one["dtype"] for one in found if one["kind"] == "cpu"] == ["float32", "bfloat16"]
    assert main(["env"]) == 0
    assert "200.0 G" in capsys.readouterr().out


def test_env_measures_them_anew_when_asked(
    quick: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    for times in (1, 2):
        assert main(["env", "--peaks", "-f", "json"]) == 0
        found = json.loads(capsys.readouterr().out)["peaks"]
        measured = [what for what in quick if what[0] == "cpu"]
        assert len(measured) == 2 * times  # two types
    assert [one["dtype"] for one in found if one["kind"] == "cpu"] == ["float32", "bfloat16"]


def test_what_a_run_achieves_of_them(quick: list[object]) -> None:
    net = nn.Linear(16, 32, bias=False)
    found = modelprobe.profile(net, torch.rand(8, 16), seconds=0.05, threads=1)
    rates = found.rates
    assert rates is not None
    assert rates.flops == 2 * 8 * 16 * 32
    assert rates.bytes_moved == 4 * (8 * 16 + 16 * 32 + 8 * 32)
    assert rates.bytes_per_s == pytest.approx(rates.bytes_moved / found.median_s)
    assert rates.peaks is not None
    assert rates.peaks.flops_per_s == 2e11
    assert rates.dtype == "float32"
    assert "of the 200 GFLOP/s of a matrix product of float32 here" in rates.facts()[0].detail
