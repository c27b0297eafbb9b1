"""Times of a training step: each node of the backward belongs to the module that asked for it, and all adds up."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import modelprobe
from modelprobe.cost.timing.layers.times import LayerTimes
from modelprobe.errors import BadInput
from tests.command_line import CommandLine

pytestmark = pytest.mark.zoo  # sleeps

NAP = 0.03


class Nap(torch.autograd.Function):
    """Sleeps on its way back alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        time.sleep(NAP)
        return grad


class Sleepy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Nap.apply(x)


class Net(nn.Module):
    """A module that is slow on the way back between two that are not, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.sleepy, self.last = nn.Linear(8, 16), Sleepy(), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.last(self.sleepy(self.first(x))))


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Sequential(nn.Linear(8, 8), Sleepy()), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=False))


def times(net: nn.Module, optimizer: str = "sgd", by: str = "layer") -> tuple[LayerTimes, float]:
    found = modelprobe.profile(net, torch.rand(4, 8), seconds=0.3, train=True, optimizer=optimizer, by=by)
    assert found.layers is not None
    return found.layers, found.median_s


def test_the_backward_of_a_module_is_its_own_and_phases_add_up() -> None:
    found, median = times(Net())
    layers = {layer.path: layer for layer in found.layers}
    assert layers["sleepy"].backward_s > NAP / 2
    assert layers["sleepy"].backward_s / layers["sleepy"].inclusive_s > 0.8
    assert layers["sleepy"].backward_s > 2 * layers["first"].inclusive_s
    assert layers["last"].calls == 2
    assert layers["sleepy"].backward_s > 2 * layers["last"].backward_s
    assert list(found.phases) == ["forward", "backward", "optimizer"]
    assert math.fsum(found.phases.values()) == pytest.approx(median)
    assert layers[""].inclusive_s == pytest.approx(median)
    assert layers[""].backward_s == pytest.approx(found.phases["backward"])
    assert all(seconds > 0 for seconds in found.phases.values())


def test_products_of_the_backward_are_in_the_row_of_their_module() -> None:
    found, _ = times(Net())
    macs = {layer.path: layer.macs for layer in found.layers}
    # first: 4 x 8 x 16 forward, as many for its weight, none for the input, which wants no gradient
    assert macs["first"] == 2 * 4 * 8 * 16
    assert macs["last"] == 2 * 3 * 4 * 16 * 16  # called twice: forward, weight and input each
    assert macs[""] == macs["first"] + macs["last"]


def test_what_runs_again_belongs_to_the_module_that_runs_again() -> None:
    found, _ = times(Again())
    layers = {layer.path: layer for layer in found.layers}
    assert layers["block"].backward_s > NAP / 2
    assert layers["block"].backward_s > 2 * layers["head"].backward_s
    found, _ = times(Again(), by="operator")
    assert "recomputation" in {operator.name for operator in found.operators}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_is_one_row_of_operators(optimizer: str) -> None:
    found, _ = times(Net(), optimizer, "operator")
    seconds = {operator.name: operator.seconds for operator in found.operators}
    own = seconds["Optimizer.step"] + seconds["Optimizer.zero_grad"]
    assert own == pytest.approx(found.phases["optimizer"])


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    run = CommandLine(capsys)
    line = ("profile", "samples/models.py:TinyCNN", "--input", "32", "--train", "--seconds", "0.3")
    layers = json.loads(run(*line, "--by", "layer", "-f", "json").out)["layers"]
    assert set(layers["phases"]) == {"forward", "backward", "optimizer"}
    assert "Backward" in run(*line, "--by", "layer").out
    refused = run(*line, "--plot", "roof.png")
    assert (refused.code, "leave out --train, or --plot" in refused.err) == (2, True)
    with pytest.raises(BadInput, match="eager passes"):
        modelprobe.profile(Net(), torch.rand(4, 8), compile=True, by="layer")
