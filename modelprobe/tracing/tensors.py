"""Tensors inside what models take and return: dicts, lists, tuples, dataclasses; and the numbers that tensors get."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import partial
from itertools import count
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.rnn import PackedSequence

from modelprobe.tracing.records import StorageRecord, TensorRef

MAX_DEPTH = 12
MAX_OBJECTS = 4
"""How many objects deep tensors are looked for in what a forward is given."""


def given_leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """As `leaves`, and the tensors in attributes of objects: what a forward is given may be a cache of keys."""
    if _is_object(value) and depth <= MAX_OBJECTS:
        for key, item in vars(value).items():
            yield from given_leaves(item, f"{name}.{key}" if name else key, depth + 1)
    elif type(value) in (list, tuple) and not any(isinstance(item, Tensor) for item in value):
        for index, item in enumerate(value):
            yield from given_leaves(item, f"{name}[{index}]", depth)
    elif type(value) is dict:
        for key, item in value.items():
            yield from given_leaves(item, f"{name}.{key}" if name else str(key), depth)
    else:
        yield from leaves(value, name)


def _is_object(value: Any) -> bool:
    """Whether `value` is a plain object, whose attributes may hold tensors and which can be copied."""
    if isinstance(value, (Tensor, nn.Module, type, Mapping, tuple, list)) or callable(value):
        return False
    return hasattr(value, "__dict__") and not dataclasses.is_dataclass(value) and not isinstance(value, ModuleType)


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


def with_leaves(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor changed; dicts and dataclasses keep their classes and attributes."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(with_leaves(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(with_leaves(item, change) for item in value)
    if isinstance(value, Mapping):
        found: Any = copy(value)
        for key, item in value.items():
            changed = with_leaves(item, change)
            found[key] = changed
            for name, attribute in vars(found).items() if hasattr(found, "__dict__") else ():
                if attribute is item and isinstance(item, Tensor):
                    found.__dict__[name] = changed
        return found
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(found, field.name, with_leaves(getattr(value, field.name, None), change))
        return found
    return value


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


def storage_key(tensor: Tensor) -> int:
    """What tells a tensor's memory from any other that is alive; of layouts without one, the tensor."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and nested layouts
        return id(tensor)


def tensors_among(values: Iterable[Any]) -> list[Tensor]:
    """The tensors in lists and tuples."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_among(value)
    return found


def storage_block(tensor: Tensor) -> tuple[int, Any, int] | None:
    """The key of a tensor's memory, that memory and its bytes; None for layouts without one."""
    try:
        memory = tensor.untyped_storage()
        return memory._cdata, memory, memory.nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and nested layouts
        return None


def moved(value: Any, device: torch.device | str, leaf: bool = False) -> Any:
    """`value` with every tensor on `device`; the containers are rebuilt, other objects pass as they are.

    `leaf`: a tensor that wants a gradient becomes a leaf that wants one of its own.
    """
    place = torch.device(device)

    def change(tensor: Tensor) -> Tensor:
        there = tensor if tensor.device == place and not (leaf and tensor.requires_grad) else tensor.detach().to(place)
        return there.requires_grad_() if leaf and tensor.requires_grad else there

    return with_tensors(value, change)


def copied(value: Any, leaf: bool = False) -> Any:
    """`value` with a copy of every tensor, so that a forward that writes to its input writes to the copy.

    `leaf` as for `moved`.
    """
    return with_tensors(value, lambda tensor: tensor.detach().clone().requires_grad_(leaf and tensor.requires_grad))


def with_tensors(value: Any, change: Callable[[Tensor], Tensor], depth: int = 0) -> Any:
    """`value` with what `change` makes of every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        # Lengths steer the control flow and stay on the CPU, as torch demands.
        return value._replace(data=change(value.data))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(with_tensors(item, change, depth) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(with_tensors(item, change, depth) for item in value)
    if type(value) is dict:
        return {key: with_tensors(item, change, depth) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: with_tensors(getattr(value, name), change) for name in fields})
    if isinstance(value, Mapping) and hasattr(value, "copy"):
        twin = value.copy()
        for key, item in value.items():
            twin[key] = with_tensors(item, change)
        return twin
    if _is_object(value) and depth <= MAX_OBJECTS and next(given_leaves(value), None) is not None:
        twin = copy(value)
        twin.__dict__.update({key: with_tensors(item, change, depth + 1) for key, item in vars(value).items()})
        return twin
    return value


class MemoryBlocks:
    """When each block of memory came up and when it was gone, as the number of operators that `ran` by then."""

    def __init__(self) -> None:
        self.ran: Callable[[], int] = lambda: -1
        self.open = True  # what is gone later is the recording's own
        self._records: list[list[int]] = []
        self._alive: dict[int, tuple[Any, list[int]]] = {}
        self.returned: set[int] = set()  # keys of the blocks that are alive and that operators returned

    def note(self, tensor: Tensor, number: int, given: bool = False) -> None:
        """A tensor on the storage with that number; one that was `given` may be a number that Python made a tensor."""
        block = storage_block(tensor)
        if block is None:
            return
        key, memory, nbytes = block
        if not given:
            self.returned.add(key)
        _, known = self._alive.get(key, (None, None))
        if known is not None and known[1] == nbytes:
            return
        if known is not None:  # resized in place
            known[3] = self.ran() - 1
        elif given and nbytes <= NUMBER_BYTES and self.ran() >= 0:
            return
        record = [number, nbytes, self.ran(), -1]
        self._records.append(record)
        self._alive[key] = weakref.ref(memory, partial(self._gone, key, record)), record

    def _gone(self, key: int, record: list[int], _: Any) -> None:
        if self.open:
            record[3] = self.ran() - 1
            if self._alive.get(key, (None, None))[1] is record:
                del self._alive[key]
                self.returned.discard(key)

    def frozen(self) -> tuple[StorageRecord, ...]:
        """The blocks so far."""
        return tuple(StorageRecord(*record) for record in self._records)


NUMBER_BYTES = 8
"""How large a tensor is that Python makes of a number."""


class TensorNumbers:
    """Numbers for tensors: the same tensor object is the same value, the same memory the same storage."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], TensorRef]] = {}
        self._values, self._storages = count(), count()  # which threads may share
        self._dtypes: dict[torch.dtype, tuple[str, int]] = {}
        self.complex = False  # whether any complex tensor has been seen
        self.registered: frozenset[int] = frozenset()  # ids of the parameters that modules have, before any exchange
        self._memories: set[int] = set()  # of those
        self.registers: Callable[[Tensor], bool] = lambda tensor: False  # whether the running module has it right now
        self.strangers: dict[int, nn.Parameter] = {}  # parameters that were read and are none of those
        self.initialised: dict[int, nn.Parameter] = {}  # such parameters that were written to only, so far
        self.blocks = MemoryBlocks()
        self.unseen: list[Tensor] | None = None  # tensors that came up by `get` for the first time, where somebody asks

    def register(self, model: nn.Module) -> None:
        """What modules have in their tables is no stranger, nor is another parameter of the same memory: some layers
        keep such a one elsewhere.
        """
        own = [one for module in model.modules() for one in module._parameters.values() if one is not None]
        self._memories |= {storage_key(one) for one in own if not isinstance(one, UninitializedParameter)}
        again = {key for key, tensor in self.strangers.items() if storage_key(tensor) in self._memories}
        self.registered |= again.union(map(id, own))

    def get(self, tensor: Tensor) -> TensorRef:
        """The record of `tensor`; a tensor never seen before is a value of its own."""
        known = self._known.get(id(tensor))
        # An id may be reused once its tensor is gone: the weak reference tells.
        if known is not None and known[0]() is tensor:
            return known[1]
        if type(tensor) is not Tensor and id(tensor) not in self.registered and self._is_stranger(tensor):
            self.strangers[id(tensor)] = tensor
        if self.unseen is not None:
            self.unseen.append(tensor)
        return self._numbered(tensor, None, True)

    def _is_stranger(self, tensor: Tensor) -> TypeGuard[nn.Parameter]:
        return isinstance(tensor, nn.Parameter) and not self.registers(tensor)

    def note_written(self, tensor: Tensor) -> None:
        """A parameter that a forward makes and initialises is used only if it is read as well."""
        if id(tensor) in self.strangers:
            self.initialised[id(tensor)] = self.strangers.pop(id(tensor))

    def note_read(self, tensors: Iterable[Tensor]) -> None:
        """The contrary."""
        for tensor in tensors:
            if id(tensor) in self.initialised:
                self.strangers[id(tensor)] = self.initialised.pop(id(tensor))

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor came up before."""
        known = self._known.get(id(tensor))
        return known is not None and known[0]() is tensor

    def new(self, tensor: Tensor, storage: int | None = None) -> TensorRef:
        """A new value, on the storage with that number or on one of its own."""
        return self._numbered(tensor, storage, False)

    def _numbered(self, tensor: Tensor, storage: int | None, given: bool) -> TensorRef:
        if storage is None:
            storage = next(self._storages)
        self.blocks.note(tensor, storage, given)
        name, size = self._dtype(tensor.dtype)
        strides = tensor.stride() if tensor.layout is torch.strided and not tensor.is_nested else ()
        ref = TensorRef(next(self._values), storage, shape_of(tensor), name, tensor.numel() * size, strides)
        self._known[id(tensor)] = (weakref.ref(tensor), ref)
        return ref

    def _dtype(self, dtype: torch.dtype) -> tuple[str, int]:
        known = self._dtypes.get(dtype)
        if known is None:
            known = self._dtypes[dtype] = (str(dtype).removeprefix("torch."), dtype.itemsize)
            self.complex = self.complex or dtype.is_complex
        return known
