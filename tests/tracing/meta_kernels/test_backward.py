"""What is answered on meta for operators of a backward pass is what they would give: shape, dtype, strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modelprobe.tracing.meta_kernels.backward import TRAINING_SHORTCUTS
from tests.tracing.meta_kernels.test_forward import same

aten = torch.ops.aten
MASKS = [[True, True, True], [False, True, False], [True, False, True]]


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def check(name: str, *arguments: Any) -> None:
    """The shortcut's answer is the operator's, and there is one."""
    found, expected = TRAINING_SHORTCUTS[f"aten.{name}"](*arguments), getattr(aten, name)(*arguments)
    if isinstance(expected, (list, tuple)):
        assert [item is None for item in found] == [item is None for item in expected]
        found, expected = [x for x in found if x is not None], [x for x in expected if x is not None]
    same(found, expected)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(mask: list[bool], groups: int) -> None:
    x, weight, bias = empty(2, 4, 9, 8), empty(6, 4 // groups, 3, 3), empty(6)
    geometry = ([2, 1], [1, 0], [1, 2], False, [0, 0], groups)
    check("convolution", x, weight, bias, *geometry)
    out = aten.convolution(x, weight, bias, *geometry)
    check("convolution_backward", empty(*out.shape), x, weight, [6], *geometry, mask)


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask[0]])
@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3), (2, 4, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm(mask: list[bool], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, one = empty(*shape, dtype=dtype), empty(4, dtype=dtype)
    check("native_batch_norm", x, one, one, one, one, True, 0.1, 1e-5)
    check("native_batch_norm_backward", x, x, one, one, one, one, one, True, 1e-5, mask)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("normalised", [[4], [3, 4]])
def test_layer_norm(mask: list[bool], normalised: list[int]) -> None:
    x, one = empty(2, 3, 4), empty(*normalised)
    check("native_layer_norm", x, normalised, one, one, 1e-5)
    rows = aten.native_layer_norm(x, normalised, one, one, 1e-5)[1]
    check("native_layer_norm_backward", x, x, normalised, rows, rows, one, one, mask)


def test_products_and_derivatives() -> None:
    check("addmm", empty(5), empty(2, 3), empty(3, 5))
    g, x = empty(2, 3, 4), empty(2, 3, 4)
    for name in "gelu silu sigmoid tanh hardswish hardsigmoid".split():
        check(f"{name}_backward", g, x)
    check("threshold_backward", g, x, 0)
    check("hardtanh_backward", g, x, -1.0, 1.0)
    check("leaky_relu_backward", g, x, 0.1, False)
    check("_softmax_backward_data", g, x, -1, torch.float32)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dims", [[-1, -2], [1], [0, 2, 3]])
def test_means_and_their_gradients(dims: list[int], keep: bool) -> None:
    check("mean", empty(2, 3, 4, 5), dims, keep)
    check("div", empty(2, 3), 20)


def test_pooling() -> None:
    x, geometry = empty(2, 3, 9, 8), ([3, 3], [2, 2], [1, 1], [1, 1])
    check("max_pool2d_with_indices", x, *geometry)
    out, indices = aten.max_pool2d_with_indices(x, *geometry)
    check("max_pool2d_with_indices_backward", empty(*out.shape), x, *geometry, False, indices)


def test_what_is_not_plain_is_left_to_the_operator() -> None:
    turned = empty(4, 3).T
    assert TRAINING_SHORTCUTS["aten.threshold_backward"](turned, empty(3, 4), 0) is None
    assert TRAINING_SHORTCUTS["aten.gelu_backward"](empty(1, 4), empty(3, 4)) is None
    assert TRAINING_SHORTCUTS["aten.addmm"](empty(5), empty(2, 3), empty(4, 5)) is None
    half, one = empty(2, 4, dtype=torch.bfloat16), empty(4)
    assert TRAINING_SHORTCUTS["aten.native_batch_norm"](half, one, one, one, one, True, 0.1, 1e-5) is None
    transposed = (empty(1, 4, 5, 5), empty(4, 2, 3, 3), None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1)
    assert TRAINING_SHORTCUTS["aten.convolution"](*transposed) is None
