"""Tensors inside what models take and return: dicts, lists, tuples, dataclasses and their like."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

MAX_DEPTH = 12


def leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside `value` with a name that says how to reach it: `out`, `encoder[1]`, `head.logits`."""
    if isinstance(value, Tensor):
        yield name, value
    elif depth > MAX_DEPTH or value is None or isinstance(value, (str, bytes, int, float, bool)):
        return
    elif isinstance(value, Mapping):  # a dict, and what behaves like one (the outputs of many libraries)
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for key, item in zip(value._fields, value, strict=True):
            yield from leaves(item, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{name}[{index}]", depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(
                getattr(value, field.name, None), f"{name}.{field.name}" if name else field.name, depth + 1
            )
    elif type(value).__module__.startswith("torchvision.models.detection"):  # ImageList
        yield from leaves(getattr(value, "tensors", None), f"{name}.tensors" if name else "tensors", depth + 1)


def shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of all tensors inside `value`, in order."""
    if type(value) is Tensor:  # the common case, without a generator
        return (shape_of(value),)
    return tuple(shape_of(tensor) for _, tensor in leaves(value))


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape; that of a nested tensor, which has none, is its count of components and elements."""
    if tensor.is_nested:
        return (tensor.size(0), tensor.numel() // max(1, tensor.size(0)))
    return tuple(tensor.shape)


def moved(value: Any, device: torch.device | str) -> Any:
    """`value` with every tensor on `device`; the containers are rebuilt, other objects pass as they are."""
    place = torch.device(device)
    return _mapped(value, lambda tensor: tensor if tensor.device == place else tensor.detach().to(place))


def copied(value: Any) -> Any:
    """`value` with a copy of every tensor, so that a forward that writes to its input writes to the copy."""
    return _mapped(value, lambda tensor: tensor.detach().clone())


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        # Lengths steer the control flow and stay on the CPU, as torch demands.
        return value._replace(data=change(value.data))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    if type(value) is dict:
        return {key: _mapped(item, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: _mapped(getattr(value, name), change) for name in fields})
    if isinstance(value, Mapping) and hasattr(value, "copy"):
        twin = value.copy()
        for key, item in value.items():
            twin[key] = _mapped(item, change)
        return twin
    return value
