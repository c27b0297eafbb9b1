"""After a recording the user's model and process are as before, also when something raised in the middle."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelprobe.errors import ModelRaised
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.restore import restored
from tests.samples import models


class Messy(nn.Module):
    """Changes everything that a forward can change, and caches what it made."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("count", torch.zeros(()))
        self.seen: list[Any] = []
        self.cache: dict[str, Tensor] = {}
        self.steps = 0
        self.fail = fail

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.count += 1
        y = self.norm(self.conv(x))
        self.cache["y"], self.last = y, y
        self.seen.append(y)
        self.count = self.count * torch.rand(())
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        self.register_forward_hook(lambda *_: None)
        self.train(not self.training)
        if self.fail:
            raise RuntimeError("in the middle")
        return y


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that must not change, in a form that compares."""
    return {
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(module.__dict__) for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "always": [len(m._forward_hooks_always_called) for m in model.modules()],
        "keys": list(model.state_dict()),
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "devices": [tensor.device for tensor in (*model.parameters(), *model.buffers())],
        "rng": torch.get_rng_state().tolist(),
        "globals": (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
        ),
    }


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "cnn": lambda: (models.TinyCNN(), torch.zeros(2, 3, 16, 16)),
    "attention": lambda: (models.TinyAttention().eval(), torch.zeros(1, 16, dtype=torch.int64)),
    "shared": lambda: (models.Shared(), torch.zeros(1, 8)),
    "half frozen": lambda: (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)), torch.zeros(1, 4)),
    "mixed modes": lambda: (nn.Sequential(nn.Linear(4, 4), nn.Dropout().eval()), torch.zeros(1, 4)),
    "encoder": lambda: (nn.TransformerEncoderLayer(8, 2, batch_first=True), torch.zeros(1, 3, 8)),
    "messy": lambda: (Messy(), torch.zeros(1, 3, 8, 8)),
    "messy and raising": lambda: (Messy(fail=True), torch.zeros(1, 3, 8, 8)),
    "data-dependent": lambda: (models.DataDependent(), torch.zeros(1, 4)),
    "broken": lambda: (models.Broken(), torch.zeros(1, 4)),
    "lazy": lambda: (models.Lazy(), torch.zeros(1, 3, 8, 8)),
}


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(case: str, train: bool, device: str) -> None:
    model, x = CASES[case]()
    before, values = state(model), copy.deepcopy(None if case == "lazy" else model.state_dict())
    try:
        trace(model, x, train=train, device=device)
    except ModelRaised:
        assert case in ("broken", "messy and raising")
    assert state(model) == before
    if values is not None:
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, values[name]), name


def test_caches_made_by_the_forward_are_gone() -> None:
    model = Messy()
    trace(model, torch.zeros(1, 3, 8, 8))
    assert model.steps == 0
    assert model.seen == []
    assert model.cache == {}
    assert not hasattr(model, "last")
    assert torch.get_default_dtype() is torch.float32


def test_the_model_still_computes_the_same() -> None:
    model, x = models.TinyCNN().eval(), torch.randn(1, 3, 16, 16)
    expected = model(x)
    trace(model, x)
    trace(model, x, train=True, device="real")
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("device", ["meta", "real"])
def test_the_input_is_not_written_to(device: str) -> None:
    x = torch.ones(2, 4)
    trace(nn.Sequential(nn.ReLU(inplace=True), nn.Hardtanh(-0.5, 0.5, inplace=True)), x, device=device)
    assert torch.equal(x, torch.ones(2, 4))


def test_gradients_stay() -> None:
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    grad = model.weight.grad
    trace(model, torch.ones(1, 3))
    assert model.weight.grad is grad


def test_the_fast_path_is_back_when_the_last_of_two_threads_is_done() -> None:
    """One begins while the other is at it, and ends after it."""
    assert torch.backends.mha.get_fastpath_enabled()
    entered, go_on = threading.Event(), threading.Event()

    def second() -> None:
        with restored(nn.Linear(2, 2)):
            entered.set()
            go_on.wait(10)

    other = threading.Thread(target=second)
    with restored(nn.Linear(2, 2)):
        other.start()
        assert entered.wait(10)
    assert not torch.backends.mha.get_fastpath_enabled()
    go_on.set()
    other.join()
    assert torch.backends.mha.get_fastpath_enabled()
