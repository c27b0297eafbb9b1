"""Memory that a kernel takes and gives back before it returns: copies in blocks of channels, im2col, workspaces.

On a CPU it depends on the processor, the number of threads and the release of oneDNN, so it is measured: each distinct
call runs once here on zeros, under torch's allocation events. Batches are measured at two small sizes, from which every
allocation is continued in a straight line. Calls that would take long are estimated from the sizes of their operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modelprobe.tracing.formulas import rule_for
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
    **dict.fromkeys(("aten.im2col", "aten.col2im", "aten.logsumexp", "aten.glu_backward"), (0,)),
    **dict.fromkeys(("aten._trilinear", "aten.linalg_matrix_exp", "aten.median", "aten.nanmedian"), ()),
    **dict.fromkeys(("aten._embedding_bag", "aten._embedding_bag_forward_only"), ()),
}
"""Operator whose kernels take memory -> its arguments whose first dimension is the batch; without any, run whole."""

BATCHED_KINDS = {"interpolation": (0, 2), "algebra": (), "transform": (), "sort": ()}
"""The same for every operator of a kind. The backward pass of an interpolation is told its batch by a list of sizes."""

FACTORS = {"aten.mm": (0, 1), "aten.addmm": (1, 2), "aten.bmm": (0, 1), "aten.baddbmm": (1, 2)}
"""Products -> the places of their factors. Those in half precision take memory, and those of factors that lie neither
in rows nor in columns, which are copied. Large ones are measured with fewer rows."""

SMALL_BATCHES, LARGER_BATCHES = (2, 3), (16, 17)
"""Batches to measure at. From 16 on, and for one, torch chooses other kernels."""

MAX_MACS, MAX_ELEMENTS = 2 * 10**9, 2**27
"""The largest call that is measured."""


class TensorLike(NamedTuple):
    """What a kernel sees of a tensor but its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def in_rows_or_columns(self) -> bool:
        """Whether a product takes matrices that lie so in memory without a copy."""
        (rows, columns), (step, stride) = self.shape[-2:], self.strides[-2:]
        return (stride == 1 and step >= max(1, columns)) or (step == 1 and stride >= max(1, rows))

    def of_batch(self, batch: int) -> TensorLike:
        return self._replace(shape=(batch, *self.shape[1:]))

    def zeros(self) -> Tensor:
        extent = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        memory = torch.zeros(max(extent, 0), dtype=self.dtype, device="cpu")
        return memory.as_strided(self.shape, self.strides)


def bytes_inside(operator: str, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """The most that the kernel of that call holds at once, its results among it; 0 for kernels that take none."""
    if operator not in FACTORS and _batched(operator) is None:
        return 0
    call = tuple(stand_in(value) for value in args)
    if operator in FACTORS and not _takes_memory([call[at] for at in FACTORS[operator]]):
        return 0
    if any(value is NotImplemented for value in call) or not all(0 not in _extents(value) for value in call):
        return 0
    named = tuple((key, stand_in(value)) for key, value in kwargs.items())
    return _measured(operator, func, call, named, torch.get_num_threads())


@cache
def _batched(operator: str) -> tuple[int, ...] | None:
    """Which arguments of an operator have the batch in front; None for operators that take no memory."""
    if operator in BATCHED:
        return BATCHED[operator]
    rule = rule_for(operator.replace(".", "::", 1))
    return BATCHED_KINDS.get(rule.kind) if rule is not None else None


def _takes_memory(factors: Sequence[Any]) -> bool:
    known = [value for value in factors if isinstance(value, TensorLike)]
    half = any(value.dtype in (torch.bfloat16, torch.float16) for value in known)
    return half or not all(value.in_rows_or_columns for value in known)


@lru_cache(maxsize=4096)
def _measured(operator: str, func: Any, call: tuple[Any, ...], named: tuple[Any, ...], threads: int) -> int:
    batched = _batched(operator) or ()
    if operator in FACTORS:
        large = _arithmetic(operator, call) > MAX_MACS
        batched = () if not large else FACTORS[operator] if "bmm" in operator else FACTORS[operator][:1]
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
    return tuple(_resized_batch(value, whole, batch) if at in batched else value for at, value in enumerate(call))


def _resized_batch(value: Any, whole: int, batch: int) -> Any:
    if isinstance(value, TensorLike):
        return value.of_batch(batch) if value.shape[:1] == (whole,) else value
    return (batch, *value[1:]) if isinstance(value, tuple) and value[:1] == (whole,) else value


def _arithmetic(operator: str, call: Sequence[Any]) -> int:
    """About how much arithmetic the call is."""
    if operator in FACTORS:
        one, other = (call[at] for at in FACTORS[operator])
        return numel(one.shape) * int(other.shape[-1])
    if not ("convolution" in operator or "attention" in operator or "pool" in operator or "softmax" in operator):
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
