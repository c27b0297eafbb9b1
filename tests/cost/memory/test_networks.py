"""Peaks of 40 networks of the zoos, drawn with a seed, against what torch's profiler sees of a real step on the CPU."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
import torch

from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.steps import StepSetting
from tests.benchmarks.memory import every_name, network
from tests.cost.memory.test_blocks import above_start, real_peak
from tests.sampling import sampled

LSTM = "timm:sequencer2d_s"
DRAWN = [*sorted(random.Random(13).sample(sorted({*every_name()} - {LSTM}), 40)), LSTM]


@pytest.mark.zoo
@pytest.mark.parametrize("name", [*sampled(DRAWN[:-1], 4), LSTM])
def test_the_peak_is_that_of_a_real_step(name: str, one_thread: None) -> None:
    net, images = network(name)
    train = zlib.crc32(name.encode()) % 2 == 0
    step = StepSetting(optimizer=torch.optim.SGD, steps=1) if train else None
    predicted = above_start(record_memory(net, images, step=step))
    real = real_peak(net, images, torch.optim.SGD(net.parameters()) if train else None)
    assert predicted == pytest.approx(real, rel=0.005)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
