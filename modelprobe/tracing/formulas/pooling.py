"""What pooling and interpolation cost, in comparisons, additions and products per output element."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula, free

free("interpolation", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
free("interpolation", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")


def window(kernel: Any, dims: int) -> int:
    sizes = [kernel] * dims if isinstance(kernel, int) else list(kernel)
    return math.prod(sizes * dims if len(sizes) == 1 else sizes)


def _values(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, (list, tuple)) else out
    return found


def _register_windows() -> None:
    """Maximum: k - 1 comparisons per output. Average: k - 1 additions and a division. Padding counts as an element."""
    for dims in (1, 2, 3):

        def maximum(x: Tensor, kernel: Any, *_: Any, out: Any, dims: int = dims, **__: Any) -> Cost:
            return Cost(0, _values(out).numel() * (window(kernel, dims) - 1))

        def average(x: Tensor, kernel: Any, *_: Any, out: Any, dims: int = dims, **__: Any) -> Cost:
            return Cost(0, _values(out).numel() * window(kernel, dims))

        names = [f"aten::max_pool{dims}d", f"aten::max_pool{dims}d_with_indices"]
        names += [f"aten::fractional_max_pool{dims}d", f"aten::mkldnn_max_pool{dims}d"] if dims > 1 else []
        names += [f"aten::quantized_max_pool{dims}d"]
        formula(*names, kind="pooling")(maximum)
        formula(f"aten::avg_pool{dims}d", kind="pooling")(average)


_register_windows()


def adaptive_sum(x: Tensor, out: Tensor, dims: int) -> int:
    """Elements that all windows touch together: they run from floor(i n / m) to ceil((i + 1) n / m) and may overlap."""
    touched = math.prod(out.shape[:-dims])
    for size, count in zip(x.shape[-dims:], out.shape[-dims:], strict=True):
        touched *= sum(-(-(i + 1) * size // count) - i * size // count for i in range(count))
    return touched


def _register_adaptive() -> None:
    """Average: one addition or division per touched element. Maximum: one comparison less per output."""
    for dims in (1, 2, 3):

        def average(x: Tensor, *_: Any, out: Any, dims: int = dims, **__: Any) -> Cost:
            return Cost(0, adaptive_sum(x, out, dims))

        def maximum(x: Tensor, *_: Any, out: Any, dims: int = dims, **__: Any) -> Cost:
            return Cost(0, adaptive_sum(x, _values(out), dims) - _values(out).numel())

        names = [f"aten::adaptive_avg_pool{dims}d"] + ([f"aten::_adaptive_avg_pool{dims}d"] if dims > 1 else [])
        names += ["aten::mkldnn_adaptive_avg_pool2d"] if dims == 2 else []
        formula(*names, kind="pooling")(average)
        formula(f"aten::adaptive_max_pool{dims}d", kind="pooling")(maximum)


_register_adaptive()

# Products and sums with given weights, along one axis after the other: 2 taps make 3 FLOPs, 4 taps make 7.
_LINEAR = {"upsample_linear1d": 3, "upsample_bilinear2d": 7, "upsample_trilinear3d": 15, "upsample_bicubic2d": 35}


def _register_upsampling() -> None:
    """Linear: 2^d products and their sum. Bicubic: four cubic rows and a column, 5 x (4 products + 3 sums)."""
    for name, cost in _LINEAR.items():

        def interpolate(x: Tensor, *_: Any, out: Tensor, cost: int = cost, **__: Any) -> Cost:
            return Cost(0, cost * out.numel())

        formula(f"aten::{name}", kind="interpolation")(interpolate)


_register_upsampling()


def filter_taps(size: int, count: int, radius: int, align_corners: bool) -> int:
    """Taps of all `count` outputs along an axis: a filter of `radius`, widened by the reduction, cut at the edges."""
    scale = (size - 1) / (count - 1) if align_corners and count > 1 else size / count
    support = radius * max(1.0, scale)
    centres = ((i + 0.5) * scale for i in range(count))
    return sum(min(int(c + support + 0.5), size) - max(int(c - support + 0.5), 0) for c in centres)


def _antialiased(x: Tensor, out: Tensor, radius: int, align_corners: bool) -> Cost:
    """Per output of a pass k products and k - 1 sums; the axes go one after the other, the last first, so the first
    pass still has the input's height. Source: the separable filter of Pillow, which torch follows."""
    height, width = x.shape[-2:]
    tall, wide = out.shape[-2:]
    planes = math.prod(out.shape[:-2])
    across = 2 * filter_taps(width, wide, radius, align_corners) - wide
    down = 2 * filter_taps(height, tall, radius, align_corners) - tall
    return Cost(0, planes * (height * across + wide * down))


@formula("aten::_upsample_bilinear2d_aa", kind="interpolation")
def antialiased_bilinear(x: Tensor, size: Any, align_corners: bool, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A triangle of radius 1."""
    return _antialiased(x, out, 1, align_corners)


@formula("aten::_upsample_bicubic2d_aa", kind="interpolation")
def antialiased_bicubic(x: Tensor, size: Any, align_corners: bool, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A cubic of radius 2."""
    return _antialiased(x, out, 2, align_corners)


@formula("aten::_upsample_lanczos2d_aa", kind="interpolation")
def antialiased_lanczos(x: Tensor, size: Any, align_corners: bool, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A windowed sine of radius 3."""
    return _antialiased(x, out, 3, align_corners)


_SAMPLED = {0: {4: 7, 5: 15}, 1: {4: 0, 5: 0}, 2: {4: 35}}


@formula(
    "aten::grid_sampler",
    "aten::grid_sampler_2d",
    "aten::grid_sampler_3d",
    "aten::cudnn_grid_sampler",
    kind="interpolation",
)
def grid_sampler(x: Tensor, grid: Tensor, mode: int = 0, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Per output element 2^d products and their sum (bilinear), 35 (bicubic) or a copy (nearest); per grid point
    3 to map each coordinate to pixels and 2^d products for the weights, shared by the channels."""
    dims = x.dim() - 2
    points = grid.numel() // dims if dims else 0
    weights = 0 if mode == 1 else 2**dims
    return Cost(0, out.numel() * _SAMPLED.get(mode, {}).get(x.dim(), 15) + points * (3 * dims + weights))


@formula("aten::affine_grid_generator", "aten::cudnn_affine_grid_generator", kind="interpolation")
def affine_grid(theta: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A product of every grid point with theta [N, d, d + 1]."""
    return Cost(out.numel() * theta.shape[-1])
