"""Results of operators on `meta`, kept by what the operators were given.

On `meta` many operators are written in Python; a batch norm runs through twenty of them. Networks repeat themselves:
where an operator was given the same shapes, strides, dtypes and numbers before, its result is made like the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_VALUES = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format})


class _Results(NamedTuple):
    """What an operator returned: shape, strides and dtype of one tensor or of several, None where there was none."""

    several: bool
    layouts: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None, ...]


class MetaResults:
    """Calls operators, and lets them compute their results once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], _Results | None] = {}

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What `func(*args, **kwargs)` returns; for operators whose schema tells of no writing and no sharing."""
        given: list[Any] = [func, torch.get_default_dtype()]
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
        elif type(tensor) is Tensor and _is_plain(tensor) and tensor.untyped_storage()._cdata not in memories:
            memories.add(tensor.untyped_storage()._cdata)
            layouts.append((tuple(tensor.shape), tensor.stride(), tensor.dtype))
        else:
            return None
    return _Results(several, tuple(layouts))


def _argument_tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _argument_tensors(value)
    return found
