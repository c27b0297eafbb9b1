"""What the gradients of pooling and interpolation cost: what the forward gathered is scattered, a sum per place."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.per_output_costs import per_output_formula
from modelprobe.tracing.formulas.pooling import adaptive_sum, filter_taps, window
from modelprobe.tracing.formulas.registry import Cost, formula

_TO_ONE_PLACE = (
    "max_pool2d_with_indices max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d adaptive_max_pool2d "
    "adaptive_max_pool3d max_pool2d mkldnn_max_pool2d mkldnn_max_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"
)


@formula(*(f"aten::{name}_backward" for name in _TO_ONE_PLACE.split()), kind="pooling")
def to_one_place(grad: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Each element of the gradient is added where the forward took its value from."""
    return Cost(0, grad.numel())


@formula("aten::avg_pool2d_backward", kind="pooling")
def average_backward(grad: Tensor, x: Tensor, kernel: Any, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A division, and a sum for each of the k places of the window."""
    return Cost(0, grad.numel() * (window(kernel, 2) + 1))


@formula("aten::avg_pool3d_backward", kind="pooling")
def average_backward_3d(grad: Tensor, x: Tensor, kernel: Any, *_: Any, out: Tensor, **__: Any) -> Cost:
    """The same in three dimensions."""
    return Cost(0, grad.numel() * (window(kernel, 3) + 1))


@formula("aten::_adaptive_avg_pool2d_backward", "aten::mkldnn_adaptive_avg_pool2d_backward", kind="pooling")
def adaptive_backward(grad: Tensor, x: Tensor, *_: Any, out: Tensor) -> Cost:
    """A division per window, and a sum for each place of each."""
    return Cost(0, adaptive_sum(x, grad, 2) + grad.numel())


@formula("aten::_adaptive_avg_pool3d_backward", "aten::adaptive_avg_pool3d_backward", kind="pooling")
def adaptive_backward_3d(grad: Tensor, x: Tensor, *_: Any, out: Tensor) -> Cost:
    """The same in three dimensions."""
    return Cost(0, adaptive_sum(x, grad, 3) + grad.numel())


_INTERPOLATED = {"upsample_linear1d": 4, "upsample_bilinear2d": 8, "upsample_trilinear3d": 16, "upsample_bicubic2d": 36}


def _register_interpolation() -> None:
    """Linear: 2^d products with the weights and as many sums. Bicubic: 4 products down, then 16 and 16 sums across."""
    for name, cost in _INTERPOLATED.items():

        def scatter(grad: Tensor, *_: Any, out: Tensor, cost: int = cost, **__: Any) -> Cost:
            return Cost(0, cost * grad.numel())

        formula(f"aten::{name}_backward", kind="interpolation")(scatter)


_register_interpolation()


def _register_antialiased() -> None:
    """A product and a sum per tap of the forward's separable filter, the axes in reverse."""
    for name, radius in (("bilinear", 1), ("bicubic", 2), ("lanczos", 3)):

        def scatter(
            grad: Tensor, size: Any, of: Any, align: bool, *_: Any, out: Tensor, radius: int = radius, **__: Any
        ) -> Cost:
            height, width = of[-2:]
            tall, wide = grad.shape[-2:]
            across = filter_taps(width, wide, radius, align)
            down = filter_taps(height, tall, radius, align)
            return Cost(0, math.prod(grad.shape[:-2]) * 2 * (height * across + wide * down))

        formula(f"aten::_upsample_{name}2d_aa_backward", kind="interpolation")(scatter)


_register_antialiased()


@per_output_formula("aten::grid_sampler_2d_backward", "aten::grid_sampler_3d_backward", kind="interpolation")
def grid_sampler_backward(
    grad: Tensor, x: Tensor, grid: Tensor, mode: int, padding: int, align: bool, wanted: Any, *, out: Any
) -> tuple[Cost, ...]:
    """Gradients of input and grid. Per element of g, t = 2^d taps (bicubic 4^d) take a product with their weight and a
    sum each for the input (nearest: one sum); for the grid, a tap's derivative by each of the d coordinates has d - 1
    factors, and takes a product with the input, one with g and a sum (nearest: nothing). Per point the mapping to
    pixels and the weights are the forward's, and each coordinate's gradient is scaled.
    """
    dims = x.dim() - 2
    taps = {0: 2**dims, 1: 1, 2: 4**dims}[mode]
    points = grid.numel() // dims
    shared = points * (3 * dims + (0 if mode == 1 else 2**dims))
    to_input = shared + grad.numel() * (1 if mode == 1 else 2 * taps)
    to_grid = 0 if mode == 1 else grad.numel() * taps * dims * (2 + dims - 1) + points * dims
    first, second = bool(wanted[0]), bool(wanted[1])
    return Cost(0, to_input * first), Cost(0, (to_grid + shared * (not first)) * second)


@per_output_formula("aten::cudnn_grid_sampler_backward", kind="interpolation")
def cudnn_grid_sampler_backward(x: Tensor, grid: Tensor, grad: Tensor, *, out: Any) -> tuple[Cost, ...]:
    """cuDNN's kernel, bilinear, for both."""
    return grid_sampler_backward(grad, x, grid, 0, 0, False, (True, True), out=out)
