"""Kernels with memory of their own, against torch's profiler; and what is said where a run is not followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import modelprobe
from modelprobe.report.blocks import Level


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(64, 33, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.scale, s=x.shape[-2:])


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(self.inner(x), self.inner(x)).min(-1).values


class Deformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(16, 18, 3, padding=1)
        self.inner = torchvision.ops.DeformConv2d(16, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, self.offset(x))


class Grouped(nn.Module):
    """Eight heads of queries share two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(256, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (8, 32)).transpose(1, 2)
        key = self.key(x).unflatten(-1, (2, 32)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)


class Cast(nn.Module):
    """Autocast inside the forward."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        self.inner = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return self.inner(x)


CASES = [
    (Fourier, (4, 8, 64, 64)), (Distances, (512, 64)), (Deformed, (2, 16, 24, 24)), (Grouped, (4, 256, 256)),
    (Cast, (2048, 256)),
]  # fmt: skip


def real_peak_of(net: nn.Module, given: Tensor, train: bool) -> int:
    net.train(train)
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, torch.set_grad_enabled(train):
            out: Any = net(given)
            loss = out.sum() if train else None
            if loss is not None:
                loss.backward()
            net.zero_grad()
            del out, loss
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("make", "shape", "train"),
    # MKL of torch 2.6 refuses the backward pass of `irfft2`
    [(*case, train) for case in CASES for train in (False, True) if not (train and case[0] is Fourier)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_peak_is_what_the_profiler_sees(make: Any, shape: tuple[int, ...], train: bool) -> None:
    net, given = make(), torch.rand(shape)
    found = modelprobe.estimate_memory(net, torch.empty(shape, device="meta"), train=train)
    assert found.above_start_bytes == pytest.approx(real_peak_of(net, given, train), rel=0.01)


def test_autocast_of_a_gpu_that_is_not_there_is_followed_for_it_alone() -> None:
    shape = torch.empty(2048, 256, device="meta")
    plain = modelprobe.estimate_memory(Cast("cuda"), shape).peak_bytes
    narrow = modelprobe.estimate_memory(Cast("cuda"), shape, device="cuda").peak_bytes
    assert narrow < 0.8 * plain


def test_grouped_attention_in_half_precision_builds_no_square_on_a_gpu() -> None:
    shape = torch.empty(1, 4096, 256, device="meta", dtype=torch.bfloat16)
    found = modelprobe.estimate_memory(Grouped().bfloat16(), shape, device="cuda")
    assert found.peak_bytes < 4096 * 4096 * 2


@torch.library.custom_op("modelprobe_tests::outer", mutates_args=())
def outer(x: Tensor) -> Tensor:
    return (x[:, :, None] * x[:, None]).sum(-1)


@outer.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return outer(x)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(32, 32)]
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden[0](x))


@pytest.mark.parametrize(
    ("net", "shape", "text"),
    [
        (Foreign(), (4, 8), "modelprobe_tests.outer"),
        (Listed(), (2, 32), "1,056 parameters in 2 tensors are used, and no module registers them"),
    ],
)
def test_what_is_not_followed_is_said(net: nn.Module, shape: tuple[int, ...], text: str) -> None:
    notes = modelprobe.estimate_memory(net, torch.rand(shape)).notes
    assert [note.level for note in notes if text in note.text] == [Level.WARNING]
