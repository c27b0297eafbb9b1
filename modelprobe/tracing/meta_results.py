"""Results of operators on `meta`, kept by what the operators were given.

On `meta` many operators are written in Python; a batch norm runs through twenty of them. Networks repeat themselves:
where an operator was given the same shapes, strides, dtypes and numbers before, its result is made like the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from modelprobe.tracing.records import TensorRef

_VALUES = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format})


class _Results(NamedTuple):
    """What an operator returned: shape, strides and dtype of one tensor or of several, None where there was none."""

    several: bool
    layouts: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None, ...]


class KnownIndices:
    """The largest index in tensors that count from `arange`: on `meta` it is known without values.

    A table of positions that is too small is refused here as a real device refuses it.
    """

    def __init__(self) -> None:
        self.largest: dict[int, int] = {}  # by the number of the value

    def note(
        self, operator: Any, args: Sequence[Any], inputs: Sequence[TensorRef], outputs: Sequence[TensorRef]
    ) -> None:
        """Take note of an operator's result. Raises IndexError for an index that a table does not have."""
        name = operator.name
        if name == "aten.arange":
            numbers = [arg for arg in args if isinstance(arg, int) and not isinstance(arg, bool)]
            if numbers and outputs and outputs[0].numel:
                start, step = (numbers[0], 1) if len(numbers) > 1 else (0, 1)
                step = numbers[2] if len(numbers) > 2 else step
                self.largest[outputs[0].value] = start + (outputs[0].numel - 1) * step
        elif inputs and name == "aten.embedding":
            largest = self.largest.get(inputs[-1].value, -1)
            if largest >= inputs[0].shape[0]:
                raise IndexError(f"index {largest} is out of range of a table of {inputs[0].shape[0]} rows")
        elif inputs and inputs[0].value in self.largest and (operator.kind == "view" or name == "aten.add"):
            shift = args[1] if len(args) > 1 and name == "aten.add" else 0
            if isinstance(shift, int) and outputs:
                self.largest[outputs[0].value] = self.largest[inputs[0].value] + shift


MAX_SHARED_RESULTS = 100_000
"""Results that a process keeps for later recordings: some 100 MB."""

_Known: TypeAlias = "dict[tuple[Any, ...], _Results | None]"
_SHARED: ContextVar[_Known | None] = ContextVar("_SHARED", default=None)


@contextmanager
def shared_results() -> Iterator[None]:
    """Recordings in the body know the results of all that were made so in this process: networks are much alike."""
    known = _of_process()
    if len(known) > MAX_SHARED_RESULTS:
        known.clear()
    token = _SHARED.set(known)
    try:
        yield
    finally:
        _SHARED.reset(token)


@cache
def _of_process() -> _Known:
    return {}


class MetaResults:
    """Calls operators, and lets them compute their results once. `purpose` names what else they depend on."""

    def __init__(self, purpose: str = "") -> None:
        self._purpose = purpose
        shared = _SHARED.get()
        self._known: _Known = {} if shared is None else shared

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What `func(*args, **kwargs)` returns; for operators whose schema tells of no writing and no sharing."""
        if func in _NARROW:
            func = partial(_in_half_precision, func)
        given: list[Any] = [self._purpose, getattr(func, "args", func), torch.get_default_dtype()]
        if not _describe(args, given) or (kwargs and not _describe(kwargs.items(), given)):
            return func(*args, **kwargs)
        key = tuple(given)
        known = self._known.get(key)
        if known is None:
            out = func(*args, **kwargs)
            if key not in self._known:
                self._known[key] = _layouts(out, args)
            return out
        made = [
            None if one is None else torch.empty_strided(one[0], one[1], dtype=one[2], device="meta")
            for one in known.layouts
        ]
        return tuple(made) if known.several else made[0]


_NARROW = frozenset([getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None)])  # None before torch 2.8
"""Operators whose kernel for `meta` refuses single precision, which those of real devices take."""


def _in_half_precision(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of `func` on operands of half the width, in the type that they have."""
    wide = next((arg.dtype for arg in args if isinstance(arg, Tensor) and arg.dtype == torch.float32), None)
    if wide is None:
        return func(*args, **kwargs)

    def narrowed(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != wide:
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=torch.bfloat16, device="meta")

    out = func(*map(narrowed, args), **{key: narrowed(value) for key, value in kwargs.items()})
    return torch.empty_strided(out.shape, out.stride(), dtype=wide, device="meta")


def _describe(values: Iterable[Any], into: list[Any]) -> bool:
    """Write down what a result on `meta` can depend on. False when there is something that cannot be told so."""
    for value in values:
        kind = type(value)
        if kind in _VALUES:
            into += (kind, value)  # with its type, since 1 == 1.0 == True
        elif kind is Tensor or kind is nn.Parameter:
            if not _is_plain(value):
                return False
            into += (value.shape, value.stride(), value.dtype)
        elif kind is list or kind is tuple:
            into += (kind, len(value))
            if not _describe(value, into):
                return False
        else:
            return False
    return True


def _is_plain(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
    return tensor.is_meta and strided and not tensor.is_complex()


def _layouts(out: Any, args: Iterable[Any]) -> _Results | None:
    """None when the results are not plain new tensors: some operators return what they were given."""
    several = type(out) is tuple
    layouts: list[Any] = []
    memories = {tensor.untyped_storage()._cdata for tensor in _argument_tensors(args)}
    for tensor in out if several else (out,):
        if tensor is None and several:
            layouts.append(None)
        elif type(tensor) is Tensor and _is_plain(tensor) and _owns_its_memory(tensor, memories):
            memories.add(tensor.untyped_storage()._cdata)
            layouts.append((tuple(tensor.shape), tensor.stride(), tensor.dtype))
        else:
            return None
    return _Results(several, tuple(layouts))


def _owns_its_memory(tensor: Tensor, memories: set[int]) -> bool:
    """Whether a tensor has memory of its own, and no more of it than it needs."""
    memory = tensor.untyped_storage()
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    needed = extent * tensor.element_size() if tensor.numel() else 0
    return memory._cdata not in memories and memory.nbytes() == needed


def _argument_tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _argument_tensors(value)
    return found
