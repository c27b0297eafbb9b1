"""What `health` says of weight files: faults put into small runs are named, healthy runs are left alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from modelprobe.errors import BadInput
from modelprobe.inside.health.file_health import check_file_health
from modelprobe.inside.health.file_values import read_values
from modelprobe.inside.health.initializers import fitting_initializer, ks_p_value
from tests.inside.health.runs import FAULTS, said_of
from tests.samples import ROOT


def saved(tmp_path: Path, value: object) -> str:
    path = tmp_path / "file.pth"
    torch.save(value, path)
    return str(path)


@pytest.mark.zoo
@pytest.mark.parametrize("fault", ["head never trained", "lr zero", "NaN in one tensor", "dead ReLUs", "no gradient"])
def test_a_fault_is_named(fault: str, tmp_path: Path) -> None:
    assert said_of(fault, 1, tmp_path) == ""


@pytest.mark.zoo
def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    assert said_of("", 1, tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_figure(fault: str, tmp_path: Path) -> None:
    wrong = [said for seed in range(20) if (said := said_of(fault, seed, tmp_path))]
    assert len(wrong) <= 1, wrong  # 95 %


@pytest.mark.slow
def test_healthy_figure(tmp_path: Path) -> None:
    assert [said for seed in range(100) if (said := said_of("", seed, tmp_path))] == []


@pytest.mark.parametrize("name", ["digit_cnn", "digit_resnet", "digit_vit"])
def test_trained_samples_are_left_alone(name: str) -> None:
    assert check_file_health(str(ROOT / "samples" / f"{name}.pth")).healthy


@pytest.mark.zoo
def test_a_network_that_nobody_trained(tmp_path: Path) -> None:
    import torchvision

    found = check_file_health(saved(tmp_path, torchvision.models.mobilenet_v2(weights=None).state_dict()))
    assert [item.kind for item in found.findings] == ["never trained"]
    assert found.findings[0].where == ("classifier.1",)  # convolutions without a bias say too little


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)), "torch's default, uniform"),
        (nn.init.xavier_uniform_, "Xavier uniform"),
        (lambda w: nn.init.kaiming_normal_(w, mode="fan_out"), "He normal, fan-out"),
        (lambda w: nn.init.trunc_normal_(w, std=0.02), "normal 0.02"),
    ],
)
def test_initializers_are_told(make, name) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    weight = make(torch.empty(96, 40))
    values = read_values([(weight.numpy().reshape(-1), 1)], (96, 40), "float32", packed=True)
    fit = fitting_initializer(values, (96, 40))
    assert fit is not None
    assert fit.name == name
    moved = read_values([(weight.numpy().reshape(-1) * 1.07, 1)], (96, 40), "float32", packed=True)
    assert fitting_initializer(moved, (96, 40)) is None


def test_the_p_value_of_a_uniform_sample_is_uniform() -> None:
    generator = numpy.random.default_rng(0)
    found = [ks_p_value(numpy.sort(generator.random(200))) for _ in range(400)]
    assert abs(float(numpy.mean(found)) - 0.5) < 0.05
    assert ks_p_value(numpy.sort(generator.random(200)) ** 2) < 1e-3


def test_rows_are_added_up_over_pieces() -> None:
    values = numpy.arange(60, dtype=numpy.float32)
    pieces = [(values[:7], 1), (values[7:8], 1), (values[8:33], 1), (values[33:], 1)]
    found = read_values(pieces, (6, 10), "float32", packed=True)
    assert found.rows.tolist() == pytest.approx((values.reshape(6, 10) ** 2).sum(1).tolist())
    assert found.squares == pytest.approx(float((values**2).sum()))
    assert (found.low, found.high, found.count, found.mean) == (0, 59, 60, 29.5)


def test_vectors_apart_in_the_optimizer_keep_their_names(tmp_path: Path) -> None:
    """timm's groups: decay for matrices, none for vectors. The second layer's weight gets no gradient."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        model(torch.randn(8, 8)).square().mean().backward()
        model[1].weight.grad.zero_()
        optimizer.step()
    found = check_file_health(
        saved(tmp_path, {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()})
    ).findings
    assert ("no gradient", ("1.weight",)) in [(item.kind, item.where) for item in found]


def test_a_file_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no tensors"):
        check_file_health(saved(tmp_path, {"epoch": 3}))


def test_low_precision_keeps_its_bounds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)).bfloat16()
    assert [item.kind for item in check_file_health(saved(tmp_path, model.state_dict())).findings] == ["never trained"]


def test_a_file_of_which_nothing_can_be_read_is_no_healthy_one(tmp_path: Path) -> None:
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match="no value of the 1 tensors"):
        check_file_health(str(tmp_path / "x.pt"))
