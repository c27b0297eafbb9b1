"""Results of operators on `meta`, kept by what the operators were given; and values that are known without any.

On `meta` many operators are written in Python; a batch norm runs through twenty of them. Networks repeat themselves:
where an operator was given the same shapes, strides, dtypes and numbers before, its result is made like the one before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from modelprobe.tracing.operator_parts import with_bytes_inside
from modelprobe.tracing.tensors import storage_key, tensors_among

_VALUES = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format})


class _Results(NamedTuple):
    """What an operator returned: shape, strides and dtype of one tensor or of several, None where there was none.

    `inside` are the bytes that its parts take beside.
    """

    several: bool
    layouts: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None, ...]
    inside: int


_MOST_KNOWN = 2**18
"""How many elements a tensor may have whose values are kept."""

_FILLED = {
    "aten.zeros_like": 0, "aten.new_zeros": 0, "aten.ones_like": 1, "aten.new_ones": 1, "aten.zeros": 0, "aten.ones": 1,
}  # fmt: skip
_FROM_NUMBERS = frozenset(
    f"aten.{name}" for name in "arange full eye linspace scalar_tensor tril_indices triu_indices".split()
)

NOT_KNOWN = object()
"""What is answered where the values are not known."""


_Named = Mapping[str, Any]


class KnownValues:
    """Values of tensors on `meta` that follow from constants alone, such as positions and masks.

    Whatever operators make of them is computed beside them on the CPU. What a model asks of them it is told, and a
    table of positions that is too small is refused as a real device refuses it.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        self._spoilt: dict[int, Any] = {}  # memories outside `meta` that something unknown was written to

    def of(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor: itself where it is not on `meta`; None where they are not known."""
        if not tensor.is_meta:
            return None if self._spoilt and storage_key(tensor) in self._spoilt else tensor
        found = self._known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def mixes(self, tensors: Sequence[Tensor]) -> bool:
        """Whether some of these are on `meta`, or should be, and others are not."""
        return mixed(tensors) or (bool(self._spoilt) and any(self.of(t) is None and not t.is_meta for t in tensors))

    def all_meta(self, value: Any) -> Any:
        """The same with every tensor on `meta`: sizes are all we need.

        Numbers wrapped as 0-d tensors may mix, as they may between real devices, while their values are known.
        """
        if isinstance(value, Tensor):
            plain = value.is_meta or (value.dim() == 0 and self.of(value) is not None)
            return value if plain else torch.empty_like(value, device="meta")
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            return type(value)(map(self.all_meta, value))
        return value

    def follow(
        self,
        func: Any,
        operator: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        given: Sequence[Tensor],
        written: Iterable[Tensor],
        out: Any,
    ) -> None:
        """Compute what `func` made of tensors that are known. Raises IndexError for an index that a table lacks."""
        several = out if isinstance(out, (tuple, list)) else (out,)
        made = [item for item in several if isinstance(item, Tensor)]
        if not any(tensor.is_meta for tensor in (*made, *given)):
            return
        if operator.name == "aten.embedding":
            self._check_index(given)
        if not self._follows(operator, given, made):
            self._forget(written)
            return
        if operator.name in _FILLED:
            values: Any = torch.full(made[0].shape, _FILLED[operator.name], dtype=made[0].dtype, device="cpu")
        else:
            values = self._computed(func, args, kwargs)
        found = [values] if isinstance(values, Tensor) else list(values) if isinstance(values, (tuple, list)) else []
        for tensor, value in zip(made, (value for value in found if isinstance(value, Tensor)), strict=False):
            if tensor.is_meta:
                own = all(storage_key(value) != storage_key(one) for one in given if not one.is_meta)
                self._known[id(tensor)] = (weakref.ref(tensor), value if own else value.clone())

    def _follows(self, operator: Any, given: Sequence[Tensor], made: Sequence[Tensor]) -> bool:
        """Whether the values of what an operator made follow from what is known."""
        if any(tensor.numel() > _MOST_KNOWN for tensor in made) or operator.kind == "random":
            return False
        if "dropout" in operator.name:
            return False
        filled = operator.name in _FILLED and bool(made)
        return filled or operator.name in _FROM_NUMBERS or (bool(given) and self._all_known(given))

    def answer(
        self, func: Any, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], given: Sequence[Tensor]
    ) -> Any:
        """What `func`, which asks for values, returns where they are known; else NOT_KNOWN."""
        if operator.name in ("aten.index", "aten._unsafe_index"):
            return self._indexed(func, args)
        values = self._computed(func, args, kwargs) if self._all_known(given) else NOT_KNOWN
        if isinstance(values, Tensor):
            return torch.empty_like(values, device="meta")
        if isinstance(values, (tuple, list)):
            return type(values)(torch.empty_like(v, device="meta") if isinstance(v, Tensor) else v for v in values)
        return values

    def _indexed(self, func: Any, args: Sequence[Any]) -> Any:
        """Indexing by masks, of which each is as many indices as it has true elements."""
        indices: list[Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
                continue
            values = self.of(index)
            if values is None:
                return NOT_KNOWN
            indices += [places.to("meta") for places in values.nonzero(as_tuple=True)]
        return func(args[0], indices)

    def _all_known(self, tensors: Iterable[Tensor]) -> bool:
        return all(self.of(tensor) is not None for tensor in tensors)

    def _computed(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        try:
            return func(*map(self._on_cpu, args), **{key: self._on_cpu(value) for key, value in kwargs.items()})
        except Exception:  # noqa: BLE001 - a kernel that the CPU lacks: then the values are not known
            return NOT_KNOWN

    def _on_cpu(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._on_cpu, value))
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def _check_index(self, given: Sequence[Tensor]) -> None:
        values = self.of(given[-1])
        if values is not None and given[-1].is_meta and values.numel() and int(values.max()) >= given[0].shape[0]:
            raise IndexError(f"index {int(values.max())} is out of range of a table of {given[0].shape[0]} rows")

    def _forget(self, written: Iterable[Tensor]) -> None:
        """Something unknown was written to these, and so to all that share their memory."""
        memories = set()
        for tensor in written:
            if tensor.is_meta:
                memories.add(storage_key(tensor))
            elif tensor.layout is torch.strided:
                self._spoilt[storage_key(tensor)] = tensor.untyped_storage()
        for key, (ref, _) in list(self._known.items()) if memories else ():
            held = ref()
            if held is None or storage_key(held) in memories:
                del self._known[key]


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
    """Calls operators, and lets them compute their results once. `purpose` names what else they depend on.

    `inside` are the bytes that the parts of the last one took beside its results.
    """

    def __init__(self, purpose: str = "") -> None:
        self._purpose, self.inside = purpose, 0
        shared = _SHARED.get()
        self._known: _Known = {} if shared is None else shared

    def call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], remember: bool = True
    ) -> Any:
        """What `func(*args, **kwargs)` returns; for operators whose schema tells of no writing and no sharing.

        Not to `remember` is for a run for real.
        """
        if not remember:
            out, self.inside = with_bytes_inside(func, args, kwargs)
            return out
        self.inside = 0
        if func in _RECURRENT:
            results = _recurrent_result(func, args)
            if results is not None:
                return results
        if func in _NARROW:
            func = partial(_in_half_precision, func)
        given: list[Any] = [self._purpose, getattr(func, "args", func), torch.get_default_dtype()]
        if not _describe(args, given) or (kwargs and not _describe(kwargs.items(), given)):
            return func(*args, **kwargs)
        key = tuple(given)
        known = self._known.get(key)
        if known is None:
            out, self.inside = with_bytes_inside(func, args, kwargs)
            if key not in self._known:
                self._known[key] = _layouts(out, args, self.inside)
            return out
        self.inside = known.inside
        made = [
            None if one is None else torch.empty_strided(one[0], one[1], dtype=one[2], device="meta")
            for one in known.layouts
        ]
        return tuple(made) if known.several else made[0]


_RECURRENT = frozenset(
    getattr(getattr(torch.ops.aten, name), overload)
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    for overload in ("input", "data")
)
"""Recurrent layers, padded and packed. On `meta` torch runs each of their steps, in Python: 26 ms for one."""


def _recurrent_result(func: Any, args: Sequence[Any]) -> tuple[Tensor, ...] | None:
    """Output and last states of a recurrent layer; None for operands that do not fit, which torch shall refuse."""
    padded = func._overloadname == "input"
    given, hx, weights, _, layers, _, _, both, batch_first = args if padded else (args[0], *args[2:], False)
    states = tuple(hx) if isinstance(hx, (list, tuple)) else (hx,)
    directions, batch = 2 if both else 1, 0 if batch_first else 1
    fits = (
        given.is_meta
        and weights[0].shape[1] == given.shape[-1]
        and weights[1].shape[1] == states[0].shape[-1]
        and len(weights) % (layers * directions) == 0
        and all(state.dim() == 3 and state.shape[0] == layers * directions for state in states)
        and all(tensor.dtype == given.dtype for tensor in (*states, *weights))
        and (not padded or all(state.shape[1] == given.shape[batch] for state in states))
    )
    if not fits:
        return None
    along = given.transpose(0, 1) if batch_first else given
    out = along.new_empty((*along.shape[:-1], directions * states[0].shape[-1]))
    return out.transpose(0, 1) if batch_first else out, *(torch.empty_like(state) for state in states)


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


def _layouts(out: Any, args: Iterable[Any], inside: int) -> _Results | None:
    """None when the results are not plain new tensors: some operators return what they were given."""
    several = type(out) is tuple
    layouts: list[Any] = []
    memories = {tensor.untyped_storage()._cdata for tensor in tensors_among(args)}
    for tensor in out if several else (out,):
        if tensor is None and several:
            layouts.append(None)
        elif type(tensor) is Tensor and _is_plain(tensor) and _owns_its_memory(tensor, memories):
            memories.add(tensor.untyped_storage()._cdata)
            layouts.append((tuple(tensor.shape), tensor.stride(), tensor.dtype))
        else:
            return None
    return _Results(several, tuple(layouts), inside)


def _owns_its_memory(tensor: Tensor, memories: set[int]) -> bool:
    """Whether a tensor has memory of its own, and no more of it than it needs."""
    memory = tensor.untyped_storage()
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    needed = extent * tensor.element_size() if tensor.numel() else 0
    return memory._cdata not in memories and memory.nbytes() == needed


def mixed(tensors: Sequence[Tensor]) -> bool:
    """Whether some are on `meta` and some are not."""
    meta = [tensor.is_meta for tensor in tensors]
    return any(meta) and not all(meta)
