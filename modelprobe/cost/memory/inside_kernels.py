"""Memory that a kernel takes and gives back before it returns: copies in blocks of channels, im2col, workspaces.

On a CPU it depends on the processor, the number of threads and the release of oneDNN, so it is measured: each distinct
call runs once here on zeros, under torch's allocation events. Batches are measured at two small sizes, from which every
allocation is continued in a straight line. Calls that would take long are estimated from the sizes of their operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modelprobe.tracing.records import numel

BATCHED: dict[str, tuple[int, ...]] = {
    "aten.convolution": (0,),
    "aten.convolution_backward": (0, 1),
    "aten.max_pool2d_with_indices": (0,),
    "aten._safe_softmax": (0,),
    "aten._scaled_dot_product_flash_attention_for_cpu": (0, 1, 2),
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": (0, 1, 2, 3, 4, 5),
    **dict.fromkeys(("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c", "aten._euclidean_dist"), ()),
    **dict.fromkeys(("aten._cdist_forward", "torchvision.deform_conv2d", "torchvision._deform_conv2d_backward"), ()),
}
"""Operator whose kernels take memory -> its arguments whose first dimension is the batch; without any, run whole."""

HALF_PRODUCTS = {"aten.mm": (0, 1), "aten.addmm": (1, 2), "aten.bmm": (0, 1), "aten.baddbmm": (1, 2)}
"""Products, of which those in half precision take memory -> the places of their factors. Large ones are measured with
fewer rows."""

SMALL_BATCHES, LARGER_BATCHES = (2, 3), (16, 17)
"""Batches to measure at. From 16 on, and for one, torch chooses other kernels."""

MAX_MACS, MAX_ELEMENTS = 2 * 10**9, 2**27
"""The largest call that is measured."""


class TensorLike(NamedTuple):
    """What a kernel sees of a tensor but its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def of_batch(self, batch: int) -> TensorLike:
        return self._replace(shape=(batch, *self.shape[1:]))

    def zeros(self) -> Tensor:
        extent = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        memory = torch.zeros(max(extent, 0), dtype=self.dtype, device="cpu")
        return memory.as_strided(self.shape, self.strides)


def bytes_inside(operator: str, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """The most that the kernel of that call holds at once, its results among it; 0 for kernels that take none."""
    half = operator in HALF_PRODUCTS and args[0].dtype in (torch.bfloat16, torch.float16)
    if operator not in BATCHED and not half:
        return 0
    call = tuple(stand_in(value) for value in args)
    if any(value is NotImplemented for value in call) or not all(0 not in _extents(value) for value in call):
        return 0
    named = tuple((key, stand_in(value)) for key, value in kwargs.items())
    return _measured(operator, func, call, named, torch.get_num_threads())


@lru_cache(maxsize=4096)
def _measured(operator: str, func: Any, call: tuple[Any, ...], named: tuple[Any, ...], threads: int) -> int:
    batched = BATCHED.get(operator, ())
    if not batched and operator in HALF_PRODUCTS and _arithmetic(operator, call) > MAX_MACS:
        batched = HALF_PRODUCTS[operator][:1] if "bmm" not in operator else HALF_PRODUCTS[operator]
    batch = call[batched[0]].shape[0] if batched else 0
    pair = LARGER_BATCHES if batch >= LARGER_BATCHES[0] else SMALL_BATCHES
    at = pair if batch > pair[1] else (batch,)
    calls = [_of_batch(call, batched, size) for size in at]
    if _arithmetic(operator, calls[-1]) > MAX_MACS or max(numel(_extents(value)) for value in calls[-1]) > MAX_ELEMENTS:
        return _estimated(operator, call)
    try:
        found = [allocations_of(func, one, dict(named)) for one in calls]
    except RuntimeError:  # no such kernel here, or somebody profiles already
        return _estimated(operator, call)
    if len(found) == 1:
        return peak_of(found[0])
    first, second = found
    if len(first) != len(second):
        return _estimated(operator, call)
    return peak_of([low + (high - low) * (batch - at[0]) for low, high in zip(first, second, strict=True)])


def allocations_of(
    func: Callable[..., Any], call: tuple[Any, ...], named: dict[str, Any], gradients: bool = False
) -> list[int]:
    """Bytes taken (positive) and given back, in order, while the call runs; its results are still there at the end.

    With `gradients` on, a kernel keeps what its backward pass reads.
    """
    autograd: Any = torch.autograd
    args = [value.zeros() if isinstance(value, TensorLike) else _as_argument(value) for value in call]
    options = torch._C._profiler._ExperimentalConfig()
    setting = autograd.ProfilerConfig(autograd.ProfilerState.CPU, False, True, False, False, False, options)
    with torch.set_grad_enabled(gradients):
        autograd._enable_profiler_legacy(setting)
        try:
            result = func(*args, **named)
        finally:
            events = autograd._disable_profiler_legacy()
    del result
    found = [event for thread in events for event in thread if event.kind() == "memory_alloc"]
    return [event.cpu_memory_usage() for event in found]


def peak_of(allocations: Sequence[int]) -> int:
    return max(accumulate(allocations), default=0)


def _of_batch(call: tuple[Any, ...], batched: Sequence[int], batch: int) -> tuple[Any, ...]:
    if not batched:
        return call
    whole = call[batched[0]].shape[0]
    return tuple(
        value.of_batch(batch) if at in batched and _extents(value)[:1] == (whole,) else value
        for at, value in enumerate(call)
    )


def _arithmetic(operator: str, call: Sequence[Any]) -> int:
    """About how much arithmetic the call is."""
    if operator in HALF_PRODUCTS:
        one, other = (call[at] for at in HALF_PRODUCTS[operator])
        return numel(one.shape) * int(other.shape[-1])
    if operator in BATCHED and not BATCHED[operator]:
        return 100 * sum(numel(_extents(value)) for value in call)
    if "pool" in operator or "softmax" in operator:
        return numel(call[0].shape)
    if "attention" in operator:
        query, key = call[-6:-4] if "backward" in operator else call[:2]
        return int(4 * numel(query.shape) * key.shape[2])
    image, weight = call[1:3] if "backward" in operator else call[:2]
    if "backward" in operator:
        places = 2 * numel(call[0].shape[2:])
    else:
        strides, transposed = call[3], call[6]
        places = numel(image.shape[2:]) if transposed else numel(image.shape[2:]) // numel(strides)
    return int(image.shape[0] * places * numel(weight.shape))


def _estimated(operator: str, call: Sequence[Any]) -> int:
    """Each operand copied once; 0 for others than convolutions, which take little."""
    if "convolution" not in operator:
        return 0
    operands = [value for value in call if isinstance(value, TensorLike)]
    return sum(numel(one.shape) * one.dtype.itemsize for one in operands)


def stand_in(value: Any) -> Any:
    """A hashable stand-in for an argument, NotImplemented for one that has none."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            return NotImplemented
        return TensorLike(tuple(value.shape), value.stride(), value.dtype)
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _as_argument(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _extents(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, TensorLike) else (1,)
