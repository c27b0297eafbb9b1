"""Autocast on `meta`: operators and their types as torch's own autocast on the CPU, peaks as the profiler sees them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import modelprobe
from modelprobe.cost.memory.autocast import LOWER, NOT_CAST, WIDE_BY_ARGUMENT, WIDEST, _operators, autocast_on_meta
from modelprobe.errors import ModelRaised


class Mixed(nn.Module):
    """Layers of each kind: cast down, cast up, left alone, kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.norm(self.stem(images)).relu().flatten(2).transpose(1, 2)
        rows = torch.cat([rows, self.attention(rows, rows, rows)[0]], 1)
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.float() @ torch.ones(16, 16, device=rows.device)
        scores = checkpoint(self.head, rows, use_reentrant=False).mean(1)
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


class Types(TorchDispatchMode):
    """Matrix products, convolutions, norms and losses, each with the types of its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[torch.dtype, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if any(word in name for word in ("mm", "convolution", "norm", "nll", "softmax", "cat", "mean")):
            leaves = torch.utils._pytree.tree_leaves((args, kwargs))
            self.seen.append((name, tuple(one.dtype for one in leaves if isinstance(one, Tensor))))
        return func(*args, **(kwargs or {}))


def types_of(device: str, context: Any) -> list[tuple[str, tuple[torch.dtype, ...]]]:
    torch.manual_seed(0)
    net, images = Mixed().to(device), torch.rand(2, 3, 8, 8, device=device)
    with context, Types() as types:
        with torch.autocast(device):
            loss = net(images)
        loss.backward()
    return types.seen


def test_types_are_those_of_torchs_own_autocast() -> None:
    real, ours = types_of("cpu", nullcontext()), types_of("meta", autocast_on_meta("cpu"))
    assert ours == real
    assert {torch.bfloat16, torch.float32} <= {dtype for _, dtypes in real for dtype in dtypes}


def test_on_a_gpu_norms_and_exponentials_are_wide_and_products_narrow() -> None:
    x = torch.rand(4, 8, device="meta")
    with autocast_on_meta("cuda"):
        with torch.autocast("cuda"):
            half = x @ x.T
            wide = (
                half.exp(),
                half.softmax(-1),
                half.sum(),
                F.layer_norm(half, (4,)),
                torch.addcmul(half, x @ x.T, half),
            )
        outside = x @ x.T
    assert half.dtype is torch.float16
    assert outside.dtype is torch.float32
    assert [one.dtype for one in wide] == [torch.float32] * 4 + [torch.float16]


def test_a_type_that_is_given_counts_and_so_does_turning_autocast_off_by_hand() -> None:
    x = torch.rand(4, 8, device="meta")
    with autocast_on_meta("cuda"), torch.autocast("cuda"):
        half = x @ x.T
        assert torch.softmax(half, -1, torch.float16).dtype is torch.float16
        assert half.sum(0, dtype=torch.float64).dtype is torch.float64
        torch.set_autocast_enabled("cuda", False)
        assert (x @ x.T).dtype is torch.float32


def test_a_weight_is_cast_once_and_let_go_at_the_end() -> None:
    weight, x = torch.rand(8, 8, device="meta", requires_grad=True), torch.rand(4, 8, device="meta")
    with autocast_on_meta("cpu"), torch.autocast("cpu"), Copies() as copies:
        F.linear(F.linear(x, weight), weight)
        assert copies.count == 2  # the weight, and x
    with autocast_on_meta("cpu"), Copies() as copies:
        for _ in range(2):
            with torch.autocast("cpu"):
                F.linear(x, weight)
        assert copies.count == 4


class Copies(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name() == "aten::_to_copy"
        return func(*args, **(kwargs or {}))


def test_nothing_is_left_behind() -> None:
    enter = torch.autocast.__enter__
    with pytest.raises(ValueError, match="stop"), autocast_on_meta("cuda"), torch.autocast("cuda"):
        raise ValueError("stop")
    assert torch.autocast.__enter__ is enter
    assert not torch.is_autocast_enabled("cuda")
    assert not torch.is_autocast_enabled("cpu")
    x = torch.rand(2, 2, device="meta")
    assert (x @ x).dtype is torch.float32
    with torch.autocast("cpu"):
        assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype is torch.bfloat16


def test_the_lists_name_operators_that_torch_casts() -> None:
    told = {name.removeprefix("aten::").partition(".")[0] for like in ("cpu", "cuda") for name in _operators(like)}
    assert told >= (LOWER | WIDEST | WIDE_BY_ARGUMENT) - {"convolution", "_addmm_activation", "linalg_vecdot"}
    assert not told & NOT_CAST


def convolutional() -> nn.Module:
    block = (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 9)
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 64), nn.Softmax(-1))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("make", "shape"), [(convolutional, (8, 3, 32, 32)), (perceptron, (128, 64))])
def test_the_peak_is_what_the_profiler_sees(make: Any, shape: tuple[int, ...], train: bool) -> None:
    net, given = make().train(train), torch.rand(shape)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, foreach=False)
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, torch.set_grad_enabled(train):
            with torch.autocast("cpu"):
                out = net(given)
                loss = out.sum()
            if train:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            del out, loss
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    found = modelprobe.estimate_memory(net, torch.empty(shape, device="meta"), train=train, amp=True)
    assert found.above_start_bytes == pytest.approx(peak, rel=0.01)
    assert found.env["autocast"] == "bfloat16"
    plain = modelprobe.estimate_memory(net, torch.empty(shape, device="meta"), train=train)
    assert plain.peak_bytes != found.peak_bytes


def test_what_the_model_raises_is_said_and_autocast_is_off_again() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    with pytest.raises(ModelRaised):
        modelprobe.estimate_memory(Refuses(), torch.rand(2), amp=True)
    assert not torch.is_autocast_enabled("cpu")


def test_two_threads_and_another_autocast() -> None:
    """Recordings wait for each other; the autocast of a thread that records nothing is torch's own meanwhile."""
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    x = torch.rand(32, 64)
    alone = modelprobe.estimate_memory(net, x, train=True, amp=True).peak_bytes
    found: list[int] = []
    types: set[torch.dtype] = set()
    recorders = [
        threading.Thread(
            target=lambda: found.append(modelprobe.estimate_memory(net, x, train=True, amp=True).peak_bytes)
        )
        for _ in range(3)
    ]
    for thread in recorders:
        thread.start()
    while any(thread.is_alive() for thread in recorders):
        with torch.autocast("cpu"):
            types.add((x @ x.T).dtype)
    assert found == [alone] * 3
    assert types == {torch.bfloat16}


class Uncached(nn.Module):
    """One weight, used twice; its cast is kept or made again."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.inner, self.keep = nn.Linear(512, 512, bias=False), keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", cache_enabled=self.keep):
            return self.inner(self.inner(x))


def test_casts_that_are_not_kept() -> None:
    x = torch.empty(2, 512, device="meta")
    kept, anew = (modelprobe.estimate_memory(Uncached(keep), x, train=True).above_start_bytes for keep in (True, False))
    assert anew > kept + 512 * 512 * 2 * 0.9
