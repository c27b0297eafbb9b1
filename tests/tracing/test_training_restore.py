"""After a training step was recorded the user's model and process are as before, gradients included."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.tracing.training import record_training
from tests.tracing.test_restore import CASES, state


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        torch.manual_seed(0)
        raise RuntimeError("on the way back")


class Trained(nn.Module):
    """Has gradients already, hooks on its parameters, batch statistics, dropout, a checkpoint and an LSTM."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.lstm, self.block = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 4)
        self.fail = fail
        self.held = [self.block.weight]
        self.told: list[str] = []
        for parameter in self.parameters():
            parameter.grad = torch.ones_like(parameter)
            parameter.register_hook(lambda grad: self.told.append("hook"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(self.drop(self.norm(x)).unsqueeze(1))[0].squeeze(1)
        with torch.no_grad():
            self.block.weight.clamp_(-0.01, 0.01)
        y = checkpoint(self.block, y, use_reentrant=False) + (y @ self.held[0])
        return FailsBackward.apply(y) if self.fail else y


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("fail", [False, True])
def test_gradients_statistics_and_weights_stay(fail: bool, device: str) -> None:
    model, x = Trained(fail), torch.rand(3, 4, requires_grad=True)
    before, values = state(model), copy.deepcopy(model.state_dict())
    enabled = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.cuda.math_sdp_enabled())
    fused = torch.backends.cuda.flash_sdp_enabled()
    if fail:
        with pytest.raises(ModelRaised, match="on the way back"):
            record_training(model, x, device=device)
    else:
        found = record_training(model, x, device=device, freeze=("norm.weight",))
        # Held in a list as well: both uses are gradients of one parameter.
        assert "block.weight" in found.trained
        assert found.frozen == {"norm.weight"}
    assert state(model) == before
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    for parameter in model.parameters():
        assert parameter.requires_grad
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert x.grad is None
    assert model.told == []
    assert model.held[0] is model.block.weight
    assert fused == torch.backends.cuda.flash_sdp_enabled()
    assert enabled == (
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.math_sdp_enabled(),
    )


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(case: str, device: str) -> None:
    model, x = CASES[case]()
    before, values = state(model), copy.deepcopy(None if case == "lazy" else model.state_dict())
    try:
        record_training(model, x, device=device)
    except (ModelRaised, BadInput):
        assert case in ("broken", "messy and raising", "messy")
    assert state(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    if values is not None:
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, values[name]), name
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("device", ["meta", "real"])
def test_a_layer_dropped_at_random_is_the_same_in_both_recordings(device: str) -> None:
    """Stochastic depth by Python's own generator: the forward and the backward belong to one draw."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(16))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x) if random.random() < 0.5 else x
            return x + self.layers[0](x)

    random.seed(3)
    before = random.getstate()
    found = record_training(Dropping(), torch.zeros(1, 4), device=device)
    assert random.getstate() == before
    assert found.forward_macs == found.forward.macs
    assert 16 <= found.forward.macs < 17 * 16
    assert found.unreached
