"""Predicted times: physical sense, by hand for one kernel, published figures of models, devices of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cli.app import main
from modelprobe.cost.timing.kernels import CONV, DEPTHWISE, ELEMENTWISE, MATMUL, kernels_of
from modelprobe.cost.timing.predict import PredictionResult, find_device, known_devices, predict_time
from modelprobe.cost.timing.rates import DeviceRates
from modelprobe.model.build import TargetRequest, load_model, record


def predicted(target: str, device: str, batch: int, side: str = "224") -> PredictionResult:
    loaded = load_model(TargetRequest(target, inputs=(side,), batch=batch))
    return predict_time(record(loaded), find_device(device))


def test_autocast_and_what_eager_mode_does_not_fuse() -> None:
    net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten(), nn.Linear(32 * 16, 8))
    kernels = kernels_of(modelprobe.trace(net, torch.rand(4, 16, 8, 8)))
    kinds = [kernel.kind for kernel in kernels]
    # A cast of image and weights before each product; the bias of the plain convolution is a kernel of its own.
    assert kinds == [
        *(ELEMENTWISE,) * 3, CONV, ELEMENTWISE,
        *(ELEMENTWISE,) * 2, DEPTHWISE,
        *(ELEMENTWISE,) * 2, MATMUL,
    ]  # fmt: skip
    assert kernels[3].macs == 4 * 32 * 6 * 6 * 16 * 9


def test_one_launch_by_hand() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    found = predict_time(modelprobe.trace(Twice(), torch.rand(1000, 1000)), find_device("rtx4090"))
    rates = find_device("rtx4090").rates
    moved = 3 * 4 * 1000 * 1000  # two operands read, one result written
    assert found.predicted_s == pytest.approx(rates.launch_s + moved / rates.bytes_per_s, rel=1e-6)
    assert found.launches == 1


def test_larger_batches_take_longer_and_are_more_efficient() -> None:
    small, large = (predicted("resnet18", "rtx3090", batch) for batch in (32, 256))
    assert small.predicted_s < large.predicted_s
    assert small.per_second < large.per_second
    assert large.interval_s[0] < large.predicted_s < large.interval_s[1]
    assert sum(share.seconds for share in large.kinds) == pytest.approx(large.predicted_s)


def test_a_newer_card_is_faster() -> None:
    old, new = (predicted("resnet18", device, 256).predicted_s for device in ("rtx3090", "rtx5090"))
    assert 1.5 < old / new < 4


def test_every_shipped_device_has_eight_constants_that_make_sense() -> None:
    assert len(fields(DeviceRates)) == 8
    for name in known_devices():
        device = find_device(name.upper())
        assert all(value > 0 for value in asdict(device.rates).values())
        assert 0.5 < device.interval[0] < 1 < device.interval[1] < 2


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*line: str) -> dict[str, Any]:
        assert main([*line, "-f", "json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


NET = "samples/models.py:TinyCNN"


def test_a_device_of_ones_own(told: Any, tmp_path: Path) -> None:
    spec = tmp_path / "mine.json"
    spec.write_text(json.dumps(asdict(find_device("rtx4090").rates)))
    mine = told("profile", NET, "--batch", "64", "--device-spec", str(spec))
    known = told("profile", NET, "--batch", "64", "--predict", "rtx4090")
    assert mine["predicted_s"] == known["predicted_s"]
    assert mine["device"] == "mine"
    assert mine["interval_s"] == [mine["predicted_s"] * 0.5, mine["predicted_s"] * 2]
    assert mine["batch"] == 64


@pytest.mark.zoo
def test_a_recorded_run_is_predicted_without_torch(told: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "run.mptrace")
    told("flops", NET, "--batch", "64", "--save-trace", file)
    assert (
        told("profile", file, "--predict", "rtx4090")["predicted_s"]
        == told("profile", NET, "--batch", "64", "--predict", "rtx4090")["predicted_s"]
    )


def test_small_batches_are_warned_of(told: Any) -> None:
    notes = told("profile", NET, "--predict", "rtx4090")["notes"]
    assert any(note["level"] == "warning" and "at 1 the time depends" in note["text"] for note in notes)
    assert any("A prediction, not a measurement" in note["text"] for note in notes)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no object"),
        ("{}", "launch_s is missing"),
        (json.dumps({**asdict(find_device("rtx4090").rates), "bytes_per_s": -1}), "bytes_per_s is -1"),
        (json.dumps({**asdict(find_device("rtx4090").rates), "launch_s": 5}), "launch_s is 5"),
        (json.dumps({**asdict(find_device("rtx4090").rates), "core_macs_per_s": True}), "core_macs_per_s is True"),
    ],
)
def test_bad_device_files(spec: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.json").write_text(spec)
    assert main(["profile", NET, "--device-spec", f"{tmp_path}/spec.json"]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["--predict", "rtx4080"], "did you mean rtx4090"),
        (["--predict", "rtx4090", "--device-spec", "x"], "both name a device"),
        (["--predict", "rtx4090", "--device", "cuda"], "leave out --device"),
        (["--predict", "rtx4090", "--threads", "2"], "leave out --threads"),
        (["--predict", "rtx4090", "--batch", "1,8"], "a prediction is of one batch"),
        (["--predict", "rtx4090", "--batch", "auto"], "a prediction is of one batch"),
        (["--batch", "0"], "a batch has at least one example"),
        (["--threads", "0"], "no number of threads"),
        (["--device", "cuda:7"], "cuda:7"),
    ],
)
def test_wrong_questions(line: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", NET, *line]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.zoo
def test_measured_here(told: Any) -> None:
    found = told("profile", NET, "--input", "32", "--batch", "4", "--seconds", "0.3", "--threads", "1")
    samples = found["samples_s"]
    assert len(samples) > 10
    assert min(samples) <= found["median_s"] <= max(samples)
    assert found["per_second"] == pytest.approx(4 / found["median_s"])
    assert found["threads"] == 1
    assert ("90" in found["percentiles"]) == (len(samples) >= 64)
    assert ("99" in found["percentiles"]) == (len(samples) >= 662)
    for name in ("90", "99"):
        assert (name in found["percentile_bounds"]) != (name in found["percentiles"])


def test_a_model_that_raises_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 2)\n\n"
        "    def forward(self, x):\n        raise ValueError('never')\n"
    )
    assert main(["profile", f"{tmp_path}/net.py:Net", "--input", "1x4"]) == 4
    assert "raised ValueError" in capsys.readouterr().err
