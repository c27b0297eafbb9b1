"""The roofline: which limit binds a layer, by hand; a sentence, a picture, a page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from modelprobe.cli.app import main
from modelprobe.cost.timing import peaks
from modelprobe.cost.timing.layers.align import ProfiledPiece
from modelprobe.cost.timing.layers.roofline import ARITHMETIC, LAUNCH, MEMORY, roofline
from modelprobe.cost.timing.layers.times import reconciled
from modelprobe.environment import MeasuredPeaks
from modelprobe.tracing.recorder import trace

PEAKS = MeasuredPeaks("cpu", "A CPU", "float32", 1, "", 1e9, 1e8, 1e-6)
"""1 GFLOP/s, 0.1 GB/s, 1 µs for a launch."""


def test_which_limit_binds() -> None:
    net = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 1, bias=False), nn.Flatten())
    ledger = trace(net, torch.rand(1000, 1000))
    took = (4.0, 0.16, 0.081, 2e-6)
    calls = [number for number, call in enumerate(ledger.calls) if call.path]
    pieces = [
        ProfiledPiece(call, ledger.ops[at].name, (at,), seconds, 0.0, 0)
        for at, (call, seconds) in enumerate(zip(calls, took, strict=True))
    ]
    found = {one.path: one for one in roofline(reconciled(ledger, [pieces], sum(took), False), PEAKS).layers}
    # 2 x 10^9 FLOPs at 10^9/s; 3 x 4 MB at 10^8/s
    assert (found["0"].bound, found["0"].arithmetic_s, found["0"].memory_s) == (ARITHMETIC, 2.0, 0.12)
    assert found["0"].sentence == "Bound by arithmetic: 0.5 of 1 GFLOP/s; up to 2x faster."
    # 8 MB at 10^8/s; half of the time above them
    assert (found["1"].bound, found["1"].left) == (MEMORY, pytest.approx(2))
    assert found["1"].sentence == "Bound by memory: 0.05 of 0.1 GB/s; up to 2x faster."
    assert found["1"].roof_flops_per_s == pytest.approx(1 / 8 * 1e8)  # one operation for 8 bytes
    assert found["2"].bound == MEMORY
    assert found["3"].bound == LAUNCH
    assert "1 operator takes 1.000 µs to start, and computes nothing" in found["3"].sentence


def test_a_kernel_far_from_its_bound_and_one_at_the_peak() -> None:
    ledger = trace(nn.Linear(1000, 1000, bias=False), torch.rand(1000, 1000))
    for seconds, words in (
        (20.0, "Bound by its kernel before arithmetic: 0.1 of 1 GFLOP/s; up to 10x faster."),
        (2.0, "Bound by arithmetic, and at the peak: 1 of 1 GFLOP/s."),
        (1.0, "Bound by arithmetic, above the measured peak: 2 of 1 GFLOP/s."),
    ):
        pieces = [ProfiledPiece(0, "aten.linear", (0,), seconds, 0.0, 0)]
        (layer,) = roofline(reconciled(ledger, [pieces], seconds, False), PEAKS).hot
        assert layer.sentence == words


@pytest.mark.zoo
def test_the_picture_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(peaks, "measure_peaks", lambda *_: (1e11, 1e10, 1e-6))
    line = ["profile", "samples/models.py:TinyCNN", "--input", "32", "--seconds", "0.05"]
    plot, page = tmp_path / "roof.png", tmp_path / "roof.html"
    assert main([*line, "--plot", str(plot), "-o", str(page)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in page.read_text()
    assert "What binds it" in page.read_text()
    assert main([*line, "--plot", str(tmp_path / "roof.jpg")]) == 2
    assert "name it with .png" in capsys.readouterr().err
