"""Sees the calls of torch's Python functions that the operators below do not tell apart: `F.relu(x)` from `x.relu()`.

Some tools replace these functions, by name, in torch's own modules, and count what comes through. To see what they
see, the same names are replaced here while a recording that asks for it runs, and put back after.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modelprobe.tracing.dispatch import plain_value
from modelprobe.tracing.records import FunctionCall
from modelprobe.tracing.tensors import shape_of

_FUNCTIONAL = (
    "relu prelu elu relu6 gelu silu softmax upsample interpolate avg_pool1d avg_pool2d avg_pool3d max_pool1d "
    "max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d"
).split()
_TORCH = "matmul mm bmm addmm baddbmm mul add".split()
_TENSOR_METHODS = "matmul mm bmm addmm mul add".split()

_KERNELS = ("torch._refs", "torch._decomp", "torch._meta_registrations", "torch._prims")
"""Kernels of `meta` are written in Python with these very functions; on a real device nobody would see them."""

WATCHED: tuple[tuple[str, Any, str], ...] = (
    *(("F", functional, name) for name in _FUNCTIONAL),
    *(("torch", torch, name) for name in _TORCH),
    *(("Tensor", Tensor, name) for name in _TENSOR_METHODS),
)
"""(shown prefix, where it is looked up, name)."""


@contextmanager
def watched_functions(where: Callable[[], tuple[str, int]], ops: Callable[[], int]) -> Iterator[list[FunctionCall]]:
    """The calls of the watched functions in the body, filled as they are made."""
    calls: list[FunctionCall] = []
    replaced: list[tuple[Any, str, Any, bool]] = []
    try:
        for prefix, place, name in WATCHED:
            original = getattr(place, name)
            replaced.append((place, name, original, name in vars(place)))
            setattr(place, name, _watching(f"{prefix}.{name}", original, calls, where, ops))
        yield calls
    finally:
        for place, name, original, own in replaced:
            if own:
                setattr(place, name, original)
            else:  # the method of a base class: ours hides it
                delattr(place, name)


def _watching(
    name: str,
    original: Callable[..., Any],
    calls: list[FunctionCall],
    where: Callable[[], tuple[str, int]],
    ops: Callable[[], int],
) -> Callable[..., Any]:
    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith(_KERNELS):
            return original(*args, **kwargs)
        path, number = where()
        values = (*args, *kwargs.values())
        shapes = tuple(shape_of(value) if isinstance(value, Tensor) else None for value in values)
        keys = (*("" for _ in args), *kwargs)
        calls.append(FunctionCall(name, path, number, ops(), keys, shapes, tuple(map(plain_value, values))))
        return original(*args, **kwargs)

    return call
