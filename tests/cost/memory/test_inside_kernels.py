"""Memory inside CPU kernels, against torch's profiler on the same calls and on batches that are not measured."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import modelprobe
from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.estimate import estimate_of
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


aten = torch.ops.aten
ONES = torch.ones(()).expand(48, 160)  # the gradient of a sum
KERNELS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "gradient of a weight": ("mm", aten.mm.default, (ONES.t(), torch.rand(48, 96))),
    "gradient of an input": ("mm", aten.mm.default, (ONES, torch.rand(160, 96))),
    "every other column": ("mm", aten.mm.default, (torch.rand(48, 160)[:, ::2], torch.rand(80, 96))),
    "added": ("addmm", aten.addmm.default, (torch.rand(96), torch.rand(48, 160)[:, ::2], torch.rand(80, 96))),
    "in batches": ("bmm", aten.bmm.default, (torch.rand(5, 48, 160)[..., ::2], torch.rand(5, 80, 96))),
    "unfolded": ("im2col", aten.im2col.default, (torch.rand(4, 6, 20, 20), [3, 3], [1, 1], [0, 0], [1, 1])),
    "folded": ("col2im", aten.col2im.default, (torch.rand(4, 54, 324), [20, 20], [3, 3], [1, 1], [0, 0], [1, 1])),
    "enlarged": ("upsample_bilinear2d", aten.upsample_bilinear2d.default, (torch.rand(9, 3, 20, 20), [40, 40], False)),
    "enlarged, backward": (
        "upsample_bilinear2d_backward",
        aten.upsample_bilinear2d_backward.default,
        (torch.rand(9, 3, 40, 40), [40, 40], [9, 3, 20, 20], False),
    ),
    "median": ("median", aten.median.dim, (torch.rand(40, 50), 1)),
    "k-th value": ("kthvalue", aten.kthvalue.default, (torch.rand(40, 50), 3, 1)),
    "matrix exponential": ("linalg_matrix_exp", aten.linalg_matrix_exp.default, (torch.zeros(4, 30, 30),)),
    "singular values": ("_linalg_svd", aten._linalg_svd.default, (torch.rand(4, 30, 20), False, True)),
    "eigenvalues": ("_linalg_eigh", aten._linalg_eigh.default, (torch.eye(30), "L", True)),
    "log of a sum": ("logsumexp", aten.logsumexp.default, (torch.rand(40, 50), [1])),
}


@pytest.mark.parametrize("name", KERNELS)
def test_copies_and_workspaces(name: str) -> None:
    operator, func, args = KERNELS[name]
    assert bytes_inside(f"aten.{operator}", func, args, {}) == seen(func, args) > 0


def test_products_of_rows_and_columns_are_not_tried() -> None:
    rows, columns = torch.rand(48, 160), torch.rand(96, 160).t()
    assert bytes_inside("aten.mm", aten.mm.default, (rows, columns), {}) == 0


@pytest.mark.parametrize(("shape", "given"), [((8, 64, 256), (1, 2)), ((8, 256, 64), None)])
def test_a_linear_layer_whose_input_does_not_lie_in_rows(shape: tuple[int, ...], given: tuple[int, int] | None) -> None:
    layer = torch.nn.Linear(64, 512)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x.transpose(*given) if given else x[:, ::2])
            return out

    x, net = torch.rand(shape), Net()
    found = estimate_of(record_memory(net, x))
    assert found.above_start_bytes == seen(net, (x,))


def test_a_training_step_whose_loss_is_a_sum() -> None:
    """The gradient of the output is one number, which products copy to a whole matrix."""
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2048))
    x = torch.rand(128, 64)
    found = modelprobe.estimate_memory(net, x, train=True, optimizer="sgd")
    assert found.above_start_bytes == pytest.approx(_peak_of_steps(net, x, "sgd"), rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_buffer_that_the_forward_replaces(optimizer: str) -> None:
    class Average(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(256, 256)
            self.register_buffer("mean", torch.zeros(256, 256))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = self.mean * 0.9 + self.layer.weight.detach() * 0.1
            out: torch.Tensor = self.layer(x) + self.mean[0]
            return out

    net, x = Average(), torch.rand(64, 256)
    found = modelprobe.estimate_memory(net, x, train=True, optimizer=optimizer)
    assert found.above_start_bytes == pytest.approx(_peak_of_steps(net, x, optimizer), abs=64)
    if optimizer == "sgd":  # of the forward alone: the buffer, two terms, their sum
        assert modelprobe.trace(net, x).peak_bytes == 4 * (256 * 256 + 256 + 64 * 256 + 4 * 256 * 256)


def _peak_of_steps(net: torch.nn.Module, x: torch.Tensor, optimizer: str) -> int:
    """Of the third of three steps: what was there before, the profiler does not see go."""
    chosen: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](net.parameters())

    def step() -> None:
        out = net(x)
        out.sum().backward()
        chosen.step()
        chosen.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        for _ in range(3):
            step()
    found = events.profiler.kineto_results.events()
    alive = list(accumulate(event.nbytes() for event in found if event.name() == "[memory]"))
    return max(alive[len(alive) * 2 // 3 :]) - alive[-1]
