"""Memory inside CPU kernels, against torch's profiler on the same calls and on batches that are not measured."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.inside_kernels import bytes_inside

SHAPES = [
    ((3, 64, 7, 2, 3, 1), False),
    ((64, 64, 3, 1, 1, 1), False),
    ((24, 24, 3, 1, 1, 24), False),
    ((20, 40, 3, 1, 1, 1), False),
    ((96, 96, 7, 1, 3, 96), True),
    ((64, 32, 1, 1, 0, 1), False),
]


def call(batch: int, shape: tuple[int, ...], last: bool) -> tuple[Any, ...]:
    channels, out, kernel, stride, padding, groups = shape
    images = torch.rand(batch, channels, 16, 16)
    if last:
        images = images.to(memory_format=torch.channels_last)
    weight, bias = torch.rand(out, channels // groups, kernel, kernel), torch.rand(out)
    return images, weight, bias, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups


def seen(func: Any, args: tuple[Any, ...]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events, torch.no_grad():
        result = func(*args)
    del result
    found = [event.nbytes() for event in events.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(found), default=0)


@pytest.mark.parametrize("batch", [1, 2, 7, 24])
@pytest.mark.parametrize(("shape", "last"), SHAPES)
def test_convolutions(batch: int, shape: tuple[int, ...], last: bool) -> None:
    args, func = call(batch, shape, last), torch.ops.aten.convolution.default
    assert bytes_inside("aten.convolution", func, args, {}) == seen(func, args)


@pytest.mark.parametrize("batch", [1, 2, 7, 24])
@pytest.mark.parametrize(("shape", "last"), SHAPES)
def test_their_gradients(batch: int, shape: tuple[int, ...], last: bool) -> None:
    images, weight, bias, *others = call(batch, shape, last)
    grad = torch.rand_like(torch.ops.aten.convolution(images, weight, bias, *others))
    args = (grad, images, weight, [len(bias)], *others, [True, True, True])
    func = torch.ops.aten.convolution_backward.default
    found = bytes_inside("aten.convolution_backward", func, args, {})
    assert found == pytest.approx(seen(func, args), rel=2e-3)  # scratch of a batch may have its own size


def test_a_call_too_large_to_try_is_estimated_from_its_operands() -> None:
    images = torch.empty(64, 512, 256, 256, device="meta")
    weight = torch.empty(512, 512, 3, 3, device="meta")
    others = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    found = bytes_inside("aten.convolution", torch.ops.aten.convolution.default, (images, weight, None, *others), {})
    assert found == 4 * (images.numel() + weight.numel())


def test_others_take_nothing() -> None:
    assert bytes_inside("aten.relu", torch.ops.aten.relu.default, (torch.rand(4),), {}) == 0


def test_a_result_on_meta_is_channels_last_where_it_is_on_a_device() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 16, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.conv(x.permute(0, 3, 1, 2))
            return out.permute(0, 2, 3, 1).contiguous()  # a copy only where the channels are not last

    blocks = record_memory(Net(), torch.rand(2, 8, 8, 8)).blocks
    assert sum(block.role == "activation" for block in blocks) == 1
