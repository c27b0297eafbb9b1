"""What ptflops counts for a call of a function that it has replaced.

Facts: ptflops 0.7.5, `ptflops/pytorch_ops.py`.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from modelprobe.tracing.records import FunctionCall, Shape, numel

_PRODUCTS = ("matmul", "mm", "bmm")
_SUMS_OF_PRODUCTS = ("addmm", "baddbmm")


def function_cost(call: FunctionCall) -> float:
    """Products in MACs, and 1 per element of the input of everything else."""
    name = call.name.rpartition(".")[2]
    if name in _PRODUCTS:
        return _matrix_product(_shape_of(call, 0, "input"), _shape_of(call, 1, "other", "mat2"))
    if name in _SUMS_OF_PRODUCTS:
        product = _matrix_product(_shape_of(call, 1, "mat1", "batch1"), _shape_of(call, 2, "mat2", "batch2"))
        added = _argument(call, 3, "beta")
        return product + (numel(_shape_of(call, 0, "input") or ()) if added is None or added != 0 else 0)
    if name in ("mul", "add"):
        return _elementwise(_shape_of(call, 0, "input"), _shape_of(call, 1, "other"))
    shape = _shape_of(call, 0, "input") or ()
    return _resize_cost(call, shape) if name in ("interpolate", "upsample") else numel(shape)


def _matrix_product(first: Shape | None, second: Shape | None) -> int:
    return numel(first or ()) * (second or (1,))[-1]


def _elementwise(first: Shape | None, second: Shape | None) -> int:
    """The greater of both sizes, dimension by dimension from the left, although broadcasting goes from the right."""
    if first is None or second is None:
        return numel(first if first is not None else second or ())
    return numel(max(pair) for pair in zip_longest(first, second, fillvalue=1))


def _resize_cost(call: FunctionCall, shape: Shape) -> float:
    """Output elements, as the arguments tell them: with a factor, elements times the factor in every direction."""
    size = _argument(call, 1, "size")
    if size is not None:
        sizes = size if isinstance(size, tuple) else (int(size),) * (len(shape) - 2)
        return numel(sizes) * numel(shape[:2])
    factor = _argument(call, 2, "scale_factor")
    if isinstance(factor, tuple) and len(factor) == len(shape) - 2:
        product = 1.0
        for item in factor:
            product *= item
        return numel(shape) * int(product)
    return float(numel(shape) * factor ** (len(shape) - 2))


def _argument_index(call: FunctionCall, index: int, names: tuple[str, ...]) -> int | None:
    for name in names:
        if name in call.keys:
            return call.keys.index(name)
    return index if index < len(call.keys) and not call.keys[index] else None


def _shape_of(call: FunctionCall, index: int, *names: str) -> Shape | None:
    place = _argument_index(call, index, names)
    return None if place is None else call.shapes[place]


def _argument(call: FunctionCall, index: int, *names: str) -> Any:
    place = _argument_index(call, index, names)
    return None if place is None else call.arguments[place]
