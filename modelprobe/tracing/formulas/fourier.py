"""What Fourier transforms cost, in operations on real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

_COMPLEX = "fft ifft fft2 ifft2 fftn ifftn"
_REAL = "rfft irfft hfft ihfft rfft2 irfft2 rfftn irfftn"
_HALVED = {"rfft", "rfft2", "rfftn", "ihfft"}  # from real data to the half of a spectrum that determines the rest


def _points(x: Tensor, out: Tensor, axes: Sequence[int], halved: int | None) -> float:
    """N log2 n: N points in all, n in one transform. Lengths are those of the result, which may be padded or cut;
    but where the result is half a spectrum (along the last axis), `halved` long."""
    lengths = list(out.shape)
    if halved is not None:
        lengths[axes[-1]] = halved
    each = math.prod(lengths[axis] for axis in {axis % x.dim() for axis in axes})
    return math.prod(lengths) * math.log2(each) if each > 1 else 0.0


def _axes(name: str, x: Tensor, size: Any, dim: Any) -> Sequence[int]:
    """Along which axes the operator transforms, by its name and arguments (n or s, then dim)."""
    if dim is not None:
        return [dim] if isinstance(dim, int) else list(dim)
    if name.endswith("n"):
        return range(-(len(size) if size is not None else x.dim()), 0)
    return [-2, -1] if name.endswith("2") else [-1]


def _register() -> None:
    """5 N log2 n FLOPs, the figure that FFT libraries report (Frigo and Johnson 2005); half of it on real data."""
    for names, halves in ((_COMPLEX, 2), (_REAL, 1)):
        for name in names.split():

            def transform(
                x: Tensor,
                size: Any = None,
                dim: Any = None,
                *_: Any,
                out: Tensor,
                name: str = name,
                halves: int = halves,
                **named: Any,
            ) -> Cost:
                size = next((given for given in (size, named.get("n"), named.get("s")) if given is not None), None)
                axes = _axes(name, x, size, dim)
                halved = None
                if name in _HALVED:
                    last = size if isinstance(size, int) else size[-1] if size else -1
                    halved = last if last > 0 else x.shape[axes[-1]]
                return Cost(0, math.ceil(2.5 * halves * _points(x, out, axes, halved)))

            formula(f"aten::fft_{name}", kind="transform")(transform)


_register()


@formula("aten::_fft_c2c", kind="transform")
def complex_kernel(x: Tensor, dim: Sequence[int], *_: Any, out: Tensor, **__: Any) -> Cost:
    """The kernel on complex data."""
    return Cost(0, math.ceil(5 * _points(x, out, dim, None)))


@formula("aten::_fft_r2c", kind="transform")
def from_real_kernel(x: Tensor, dim: Sequence[int], *_: Any, out: Tensor, **__: Any) -> Cost:
    """The kernel from real data."""
    return Cost(0, math.ceil(2.5 * _points(x, out, dim, x.shape[dim[-1]])))


@formula("aten::_fft_c2r", kind="transform")
def to_real_kernel(x: Tensor, dim: Sequence[int], *_: Any, out: Tensor, **__: Any) -> Cost:
    """The kernel to real data."""
    return Cost(0, math.ceil(2.5 * _points(x, out, dim, None)))
