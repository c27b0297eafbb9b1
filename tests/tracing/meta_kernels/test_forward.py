"""A shortcut's result on meta is what the operator itself would give: shape, dtype, strides, or no answer at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modelprobe.tracing.meta_kernels import forward as shortcuts


def same(found: Any, expected: Any) -> None:
    """Equal in everything that a later operator can see."""
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
        return
    assert found.is_meta
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if found.numel():
        assert found.stride() == expected.stride()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    small = st.integers(1, 4)
    groups, step, pad, reach = data.draw(small), data.draw(small), data.draw(st.integers(0, 3)), data.draw(small)
    sizes = [data.draw(st.integers(1, 20)) for _ in range(dims)]
    taps = [data.draw(small) for _ in range(dims)]
    inside = data.draw(small)
    x = torch.empty(data.draw(st.integers(0, 3)), groups * inside, *sizes, device="meta")
    weight = torch.empty(groups * data.draw(small), inside, *taps, device="meta")
    bias = torch.empty(weight.shape[0], device="meta") if data.draw(st.booleans()) else None
    run: Callable[..., Tensor] = (torch.conv1d, torch.conv2d, torch.conv3d)[dims - 1]
    arguments = (x, weight, bias, [step] * dims, [pad] * dims, [reach] * dims, groups)
    found = shortcuts.convolution(*arguments)
    try:
        expected = run(*arguments)
    except RuntimeError:
        assert found is None  # then the operator runs, and raises this
    else:
        if min(expected.shape[2:]) < 1:  # older torch lets a kernel be larger than its input
            assert found is None
        else:
            same(found, expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_what_does_not_fit_is_left_to_the_operator(channels: int) -> None:
    x, weight = torch.empty(1, 3, 8, 8, device="meta"), torch.empty(4, channels, 3, 3, device="meta")
    assert (shortcuts.convolution(x, weight) is None) == (channels == 4)
    assert shortcuts.convolution(x, weight, None, [1, 1], "same") is None
    wrong = torch.empty(5, device="meta")
    assert shortcuts.batch_norm(x, wrong, wrong, wrong, wrong, False, 0.1, 1e-5, False) is None
    assert shortcuts.layer_norm(x, [5], None, None) is None
    strided = torch.empty(1, 8, 8, 3, device="meta").permute(0, 3, 1, 2)
    assert shortcuts.convolution(strided, torch.empty(4, 3, 3, 3, device="meta")) is None


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 4), (1, 6, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.empty(shape, device="meta", dtype=dtype)
    one = torch.empty(6, device="meta", dtype=dtype)
    arguments = (x, one, one, one, one, False, 0.1, 1e-5, False)
    same(shortcuts.batch_norm(*arguments), torch.batch_norm(*arguments))


def test_channels_last_stays_channels_last() -> None:
    x = torch.empty(2, 6, 5, 4, device="meta").to(memory_format=torch.channels_last)
    one = torch.empty(6, device="meta")
    arguments = (x, one, one, one, one, False, 0.1, 1e-5, False)
    same(shortcuts.batch_norm(*arguments), torch.batch_norm(*arguments))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7)])
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 1, 1, 1), (0, 3, 4, 4)])
def test_adaptive_average(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    x = torch.empty(shape, device="meta")
    same(shortcuts.adaptive_average(x, size), torch.nn.functional.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (2, 0, 6), (1, 2, 3, 6)])
def test_linear(shape: tuple[int, ...]) -> None:
    x, weight = torch.empty(shape, device="meta"), torch.empty(5, 6, device="meta")
    for bias in (None, torch.empty(5, device="meta")):
        same(shortcuts.linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
    assert shortcuts.linear(x, torch.empty(5, 7, device="meta")) is None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_max_pool(data: st.DataObject) -> None:
    x = torch.empty(2, 3, data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)), device="meta")
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, reach = data.draw(pair), data.draw(st.just([]) | pair), data.draw(pair)
    padding = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    arguments = (x, kernel, stride, padding, reach, False)
    found = shortcuts.max_pool(*arguments)
    try:
        expected = torch.max_pool2d(*arguments)
    except RuntimeError:
        assert found is None
    else:
        assert found is not None
        same(found, expected)


ELEMENTWISE = [name for name, use in shortcuts.SHORTCUTS.items() if use in (shortcuts.unary, shortcuts.in_place)]
PAIRS = [name for name, use in shortcuts.SHORTCUTS.items() if use is shortcuts.binary]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("name", [*ELEMENTWISE, *PAIRS])
def test_elementwise(name: str, dtype: torch.dtype) -> None:
    run = getattr(torch.ops.aten, name.removeprefix("aten."))
    two = name.removeprefix("aten.").startswith(("add", "mul"))
    for shape in ((), (3,), (2, 3, 4, 5), (0, 3)):
        x = torch.empty(shape, dtype=dtype, device="meta")
        rest = (torch.empty(shape, dtype=dtype, device="meta"),) if two else ()
        found = shortcuts.SHORTCUTS[name](x, *rest)
        if found is not None:
            same(found, run(x, *rest))
            assert (found is x) == name.endswith("_")


@pytest.mark.parametrize("name", [*PAIRS, "aten.add_", "aten.mul_"])
def test_broadcast_and_promotion_are_left_to_the_operator(name: str) -> None:
    x = torch.empty(2, 3, device="meta")
    for other in (torch.empty(3, device="meta"), torch.empty(2, 3, dtype=torch.float64, device="meta")):
        assert shortcuts.SHORTCUTS[name](x, other) is None


def test_layer_norm() -> None:
    x, one = torch.empty(2, 5, 6, device="meta"), torch.empty(6, device="meta")
    same(shortcuts.layer_norm(x, [6], one, one, 1e-5, False), torch.layer_norm(x, [6], one, one, 1e-5, False))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "LSTM projected", "GRU", "RNN"])
def test_recurrent(kind: str, bidirectional: bool, batch_first: bool) -> None:
    more: dict[str, Any] = {"proj_size": 3} if "projected" in kind else {}
    with torch.device("meta"):
        net = getattr(nn, kind.split()[0])(4, 5, 2, bidirectional=bidirectional, batch_first=batch_first, **more)
        x = torch.empty(7, 2, 4)
    directions = 1 + bidirectional
    batch = 7 if batch_first else 2
    h = torch.empty(2 * directions, batch, 3 if more else 5, device="meta")
    c = torch.empty(2 * directions, batch, 5, device="meta")
    options = (net._flat_weights, True, 2, 0.0, False, bidirectional, batch_first)
    if kind.startswith("LSTM"):
        same(shortcuts.lstm(x, (h, c), *options), torch.lstm(x, (h, c), *options))
    else:
        run = torch.gru if kind == "GRU" else torch.rnn_tanh
        same(shortcuts.recurrent(x, h, *options), run(x, h, *options))
