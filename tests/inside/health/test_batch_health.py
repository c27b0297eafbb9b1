"""What one step shows: gradients that do not come and why, dead units, the first value that is not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import modelprobe
from modelprobe.errors import BadInput, ModelRaised
from modelprobe.inside.health.batch_checks import batch_findings
from modelprobe.inside.health.batch_health import BatchHealthResult
from modelprobe.inside.health.batch_run import run_batch


def kinds(found: object) -> list[tuple[str, tuple[str, ...]]]:
    assert isinstance(found, BatchHealthResult)
    return [(item.kind, item.where) for item in found.findings]


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def test_a_healthy_model_is_left_alone() -> None:
    found = modelprobe.check_health(body(), torch.randn(16, 8), lr=0.01)
    assert kinds(found) == []


def test_gradients_are_autograds_own_to_the_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    x = torch.randn(4, 3, 8, 8)
    model(x)
    y = torch.arange(4) % 5
    found = run_batch(model, (x,), {}, lambda out: F.cross_entropy(out, y), keep_gradients=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.train()
    F.cross_entropy(model(x), y).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(found.gradients[name], parameter.grad), name
    assert [one.norm for one in found.parameters] == pytest.approx(
        [float(p.grad.norm()) for p in model.parameters() if p.grad is not None], rel=1e-6
    )


class Parts(nn.Module):
    """A trunk and a branch, joined in the way that is given."""

    def __init__(self, join: Callable[[nn.Module, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.trunk, self.branch, self.join = nn.Linear(8, 4), nn.Linear(8, 4), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.trunk, self.branch, x)


def _in_no_grad(trunk: nn.Module, branch: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        side = branch(x)
    return trunk(x) + side


@pytest.mark.parametrize(
    ("join", "said"),
    [
        (lambda trunk, branch, x: trunk(x) + branch(x).detach(), "detached"),
        (lambda trunk, branch, x: trunk(x), "never ran"),
        (_in_no_grad, "no_grad block"),
        (lambda trunk, branch, x: trunk(x) + 0 * branch(x), "zero everywhere"),
    ],
)
def test_why_no_gradient_came(join: Callable[..., Tensor], said: str) -> None:
    found = modelprobe.check_health(Parts(join), torch.randn(16, 8))
    assert kinds(found) == [("no gradient", ("branch.weight", "branch.bias"))]
    assert isinstance(found, BatchHealthResult)
    assert said in found.findings[0].text


def test_a_block_frozen_between_others() -> None:
    model = body()
    model[2].requires_grad_(False)
    assert kinds(modelprobe.check_health(model, torch.randn(16, 8))) == [("no gradient", ("2.weight", "2.bias"))]


def test_dead_and_saturated_units() -> None:
    model = body()
    with torch.no_grad():
        model[0].bias[:12] = -100
    assert ("dead units", ("1",)) in kinds(modelprobe.check_health(model, torch.randn(16, 8)))
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight.mul_(1000)
    assert ("saturated", ("1",)) in kinds(modelprobe.check_health(model, torch.randn(16, 8)))


def test_a_gradient_that_vanishes() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    found = modelprobe.check_health(nn.Sequential(*layers, nn.Linear(16, 4)), torch.randn(16, 16))
    assert "vanishing gradient" in [kind for kind, _ in kinds(found)]


class Rooted(nn.Module):
    """The root of what a layer puts out, which is negative for some."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sqrt(self.first(x)))


class RootOfZero(Rooted):
    """The root of zeros: finite, and its gradient is not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sqrt(0 * self.first(x)))


def test_the_first_nan_with_its_line() -> None:
    found = modelprobe.check_health(Rooted(), torch.randn(16, 8))
    assert isinstance(found, BatchHealthResult)
    first = found.findings[0]
    assert first.kind == "not finite"
    assert first.text.startswith("aten.sqrt in the model itself (")
    assert "test_batch_health.py:" in first.text
    backward = modelprobe.check_health(RootOfZero(), torch.randn(16, 8))
    assert isinstance(backward, BatchHealthResult)
    assert "aten.div in the gradient of the model itself is the first" in backward.findings[0].text


def test_softmax_before_cross_entropy() -> None:
    model = nn.Sequential(body(), nn.Softmax(-1))
    y = torch.arange(16) % 4

    def cross_entropy(out: Tensor) -> Tensor:
        return F.cross_entropy(out, y)

    assert "double softmax" in [
        k for k, _ in kinds(modelprobe.check_health(model, torch.randn(16, 8), loss=cross_entropy))
    ]


def test_a_step_that_is_too_large() -> None:
    x = torch.randn(16, 8)
    assert kinds(modelprobe.check_health(body(), x, lr=1.0, optimizer="adam"))[0][0] == "exploding step"
    assert kinds(modelprobe.check_health(body(), x, lr=1e-3, optimizer="adam")) == []


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modelprobe.check_health(model, torch.randn(16, 8))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_bad_input(tmp_path: Path) -> None:
    model, x = body(), torch.randn(16, 8)
    with pytest.raises(BadInput, match="gives a tensor of 16x4, not a scalar"):
        modelprobe.check_health(model, x, loss=lambda out: out)
    with pytest.raises(ModelRaised, match="raised RuntimeError"):
        modelprobe.check_health(model, torch.randn(16, 9))
    with pytest.raises(BadInput, match="depends on no parameter"):
        modelprobe.check_health(model, x, loss=lambda out: out.detach().mean())
    with pytest.raises(BadInput, match="nothing would train"):
        modelprobe.check_health(body().requires_grad_(False), x)
    with pytest.raises(BadInput, match="no inputs"):
        modelprobe.check_health(str(tmp_path / "model.pth"), x)


def test_gradients_whose_squares_vanish_are_not_zero() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(32, 32), nn.Sigmoid()]
    run = run_batch(nn.Sequential(*layers), (torch.randn(16, 32),), {}, keep_gradients=True)
    first = run.parameters[0]
    assert first.norm == pytest.approx(float(run.gradients["0.weight"].double().norm()), rel=1e-6)
    assert 0 < (first.norm or 0) < 1e-20
    assert [one.where[0] for one in batch_findings(run) if one.kind == "vanishing gradient"] == ["0"]
    assert not [one for one in batch_findings(run) if one.kind == "no gradient"]


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = [nn.Linear(8, 8)], nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden[0](x).relu())


def test_layers_in_a_plain_list_are_named() -> None:
    (found,) = batch_findings(run_batch(Listed(), (torch.randn(16, 8),), {}))
    assert found.kind == "unregistered"
    assert found.text.startswith("72 parameters are used and no module registers them")
