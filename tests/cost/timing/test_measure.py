"""Times of a model in Python: what is returned, and a model that is left as it was."""

from __future__ import annotations

import random
import statistics

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cost.timing.measure import least_percentile
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


def test_a_percentile_that_the_samples_do_not_carry_is_bounded() -> None:
    """Of uniform numbers p90 is 0.9: 60 of them give a bound that is above it in one draw of a hundred, and not far."""
    # of ten samples, six or more lie below p90 in 99.8 % of draws, seven in 98.7 %: the sixth
    assert least_percentile(range(10), 0.9) == 5
    assert least_percentile([3.0, 1.0], 0.9) == 1  # both lie below p90 in 81 % of draws, one of them in 99 %
    draw = random.Random(0)
    bounds = [least_percentile([draw.random() for _ in range(60)], 0.9) for _ in range(2000)]
    assert sum(bound > 0.9 for bound in bounds) <= 0.015 * len(bounds)
    assert statistics.mean(bounds) > 0.7
