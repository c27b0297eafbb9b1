"""Times of a model in Python: what is returned, and a model that is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.errors import BadInput


def test_the_time_of_a_model() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.Dropout(), nn.BatchNorm1d(32)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = modelprobe.profile(net, torch.rand(8, 16), seconds=0.1)
    assert found.batch == 8
    assert found.macs == 8 * 16 * 32
    assert min(found.samples_s) <= found.median_s <= max(found.samples_s)
    assert found.flops_per_s == pytest.approx(
        modelprobe.count_flops(net.eval(), torch.rand(8, 16)).flops / found.median_s
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_mode_and_the_threads_stay() -> None:
    net, threads = nn.Linear(4, 4).train(), torch.get_num_threads()
    modelprobe.profile(net, torch.rand(2, 4), seconds=0.05, threads=1)
    assert net.training
    assert torch.get_num_threads() == threads


def test_no_thread_is_an_error() -> None:
    with pytest.raises(BadInput, match="no number of threads"):
        modelprobe.profile(nn.Linear(4, 4), torch.rand(2, 4), threads=0)
