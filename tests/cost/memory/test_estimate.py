"""The peak of a run, split into its parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.errors import BadInput

NET = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
WEIGHTS = 4 * (100 * 50 + 50 + 50 * 10 + 10)


def test_parts_add_up_to_the_peak() -> None:
    for asked in ({}, {"train": True}, {"train": True, "optimizer": "adamw", "device": "cuda"}):
        found = modelprobe.estimate_memory(NET, torch.rand(4, 100), **asked)
        assert sum(found.parts.values()) == found.peak_bytes
        assert found.parts["weights"] == WEIGHTS
        assert found.parts["inputs"] == 4 * 100 * 4


def test_adam_keeps_two_tensors_a_weight() -> None:
    found = modelprobe.estimate_memory(NET, torch.rand(4, 100), train=True, optimizer="adam", device="cuda")
    assert found.parts["optimizer_state"] == 2 * WEIGHTS
    assert found.peak_phase == "optimizer"
    assert (found.reserved_bytes or 1) % 2**21 == 0


def test_frozen_weights_get_no_gradient() -> None:
    found = modelprobe.estimate_memory(NET, torch.rand(4, 100), train=True, optimizer="adam", freeze="0")
    assert found.parts["gradients"] == 4 * (50 * 10 + 10)


def test_nothing_to_train_and_unknown_names() -> None:
    with pytest.raises(BadInput, match="every parameter is frozen"):
        modelprobe.estimate_memory(NET, torch.rand(4, 100), train=True, freeze="*")
    with pytest.raises(BadInput, match="optimizer"):
        modelprobe.estimate_memory(NET, torch.rand(4, 100), train=True, optimizer="lion")
    with pytest.raises(BadInput, match="tpu"):
        modelprobe.estimate_memory(NET, torch.rand(4, 100), device="tpu")
