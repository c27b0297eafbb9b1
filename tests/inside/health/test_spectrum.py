"""Spectra of weights: stable ranks that are known, power laws that are there and some that are not; the plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from modelprobe.cli.app import main
from modelprobe.inside.health.spectrum import MOST_SIDE, Spectrum, spectrum_of


def with_eigenvalues(values: numpy.ndarray, seed: int) -> numpy.ndarray:
    """A matrix W for which those of W W^T are these."""
    drawn = numpy.random.default_rng(seed)
    count = len(values)
    left, right = (numpy.linalg.qr(drawn.standard_normal((count, count)))[0] for _ in range(2))
    return left @ numpy.diag(numpy.sqrt(values)) @ right


def found_for(matrix: numpy.ndarray) -> Spectrum:
    found = spectrum_of(matrix)
    assert found is not None
    return found


def test_stable_ranks() -> None:
    assert found_for(numpy.outer(numpy.arange(1, 9.0), numpy.arange(1, 5.0))).stable_rank == pytest.approx(1)
    assert found_for(3 * numpy.eye(7)).stable_rank == pytest.approx(7)
    assert found_for(numpy.diag([2.0, 1.0, 1.0]).reshape(3, 1, 3)).stable_rank == pytest.approx(6 / 4)
    for none in (numpy.zeros((4, 4)), numpy.array([[1, numpy.nan]]), numpy.zeros((MOST_SIDE + 1, MOST_SIDE + 1))):
        assert spectrum_of(none) is None


@pytest.mark.zoo
@pytest.mark.parametrize("exponent", [2.2, 3.5])
def test_a_power_law_is_found(exponent: float) -> None:
    kept = 0
    for seed in range(6):
        values = (1 - numpy.random.default_rng(seed).random(300)) ** (1 / (1 - exponent))
        found = found_for(with_eigenvalues(values, seed))
        if found.exponent is not None:
            kept += 1
            assert found.exponent == pytest.approx(exponent, rel=0.25)
    assert kept >= 5  # a true law is refused once in ten times


@pytest.mark.zoo
def test_other_tails_are_refused() -> None:
    refused = 0
    for seed in range(6):
        drawn = numpy.random.default_rng(seed)
        found = found_for(with_eigenvalues(drawn.uniform(0.5, 1.0, 400), seed))
        refused += found.exponent is None
        assert found.p_value is not None
    assert refused >= 5


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 64)
    torch.save({"a.weight": weight, "a.bias": torch.randn(96), "b.weight": torch.randn(8, 96)}, tmp_path / "w.pth")
    main(["health", str(tmp_path / "w.pth"), "--spectrum", "-f", "json"])
    layers = {one["path"]: one["spectrum"] for one in json.loads(capsys.readouterr().out)["layers"]}
    size = torch.linalg.matrix_norm(weight.double(), 2)
    assert layers["a"]["stable_rank"] == pytest.approx(float((weight.double().norm() / size) ** 2), rel=1e-5)
    assert layers["b"]["exponent"] is None  # 8 eigenvalues
    assert main(["health", "resnet18", "--spectrum"]) == 2
    assert "--spectrum is for weight files alone" in capsys.readouterr().err
    assert main(["health", str(tmp_path / "w.pth"), "--plot", str(tmp_path / "p.png")]) == 2


@pytest.mark.zoo
def test_the_plot_through_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "depth.png"
    main(["health", "samples/models.py:TinyCNN", "--input", "4x3x16x16", "--plot", str(plot), "-f", "json"])
    assert json.loads(capsys.readouterr().out)["plot"] == str(plot)
    assert Image.open(plot).size[0] == 900
    assert main(["health", "samples/models.py:TinyCNN", "--plot", str(tmp_path / "depth.jpg")]) == 2
    assert "name it with .png" in capsys.readouterr().err
