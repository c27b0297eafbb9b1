"""Operators that run by others: the memory that their parts take, and the bodies of higher-order ones.

torch's own kernels for `cond`, `while_loop` and `scan` refuse to run under a dispatch mode: their bodies run as plain
code, so that the operators inside are seen. One that is not here is run whole and named as uncounted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.tracing.tensors import storage_block, tensors_among

_PartsMode: Any = TorchDispatchMode  # whose methods have no types in some releases of torch


class _PartsFollowed(_PartsMode):  # type: ignore[misc]
    """Follows the memory that the parts of one operator take: `most` bytes at once, its results among them."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self._alive: dict[int, Any] = {block[0]: None for block in filter(None, map(storage_block, given))}
        self.taken = self.most = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as the observer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if has_parts(func):
            with self:
                return func._op_dk(_IN_PARTS, *args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        for block in filter(None, map(storage_block, tensors_among((out,)))):
            self._note(*block)
        return out

    def _note(self, key: int, memory: Any, nbytes: int) -> None:
        if key not in self._alive:
            self.taken += nbytes
            self.most = max(self.most, self.taken)
            self._alive[key] = weakref.ref(memory, partial(self._gone, key, nbytes))

    def _gone(self, key: int, nbytes: int, _: Any) -> None:
        del self._alive[key]
        self.taken -= nbytes


_IN_PARTS = torch._C.DispatchKey.CompositeImplicitAutograd
_LINEAR_CALL = torch.ops.aten.linear.default
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
"""`meta` takes it apart; devices have one kernel for it, but for heads of unequal widths and more than four axes."""


def has_parts(func: Any) -> bool:
    """Whether torch runs an operator by others, on every device alike."""
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))
    except RuntimeError:  # what TorchScript's interpreter knows alone (`prim::layout`)
        return False


def linear_in_place(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """A linear layer whose input does not lie in rows, as torch computes it: the bias is added in place, unless a
    dispatch mode watches. None for other layers, in which nothing differs.
    """
    if bias is None or x.dim() < 3 or x.is_contiguous():
        return None
    # Not `torch.matmul`: the model did not call it, and conventions that count functions would.
    out: Tensor = torch.ops.aten.matmul.default(x, weight.t())
    return out.add_(bias)


def with_bytes_inside(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, int]:
    """What the operator returns, and the bytes that its parts take at once beside that."""
    mask = args[3] if func is _ATTENTION and len(args) > 3 else None
    fused = func is _ATTENTION and args[0].dim() < 5 and args[0].shape[-1] == args[2].shape[-1]
    fused = fused and (mask is None or mask.dim() == 2 or mask.dim() == args[0].dim())
    if fused or not isinstance(func, torch._ops.OpOverload) or not has_parts(func):
        return func(*args, **kwargs), 0
    follower = _PartsFollowed(tensors_among((args, tuple(kwargs.values()))))
    try:
        with follower:
            out = linear_in_place(*args) if func is _LINEAR_CALL and len(args) == 3 else None
            out = func._op_dk(_IN_PARTS, *args, **kwargs) if out is None else out
    except Exception:  # noqa: BLE001 - what the whole operator says of it is what a user knows
        return func(*args, **kwargs), 0
    return out, follower.most - follower.taken


def _cond(predicate: Any, true: Callable[..., Any], false: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
    """The branch that is taken; on meta tensors, asking for it raises, and the model is run for real."""
    return (true if predicate else false)(*operands)


def _while_loop(
    condition: Callable[..., Any], body: Callable[..., Any], carried: Sequence[Any], more: Sequence[Any] = ()
) -> Any:
    """As many rounds as the condition allows."""
    carried = tuple(carried)
    while condition(*carried, *more):
        carried = tuple(body(*carried, *more))
    return carried


def _scan(combine: Callable[..., Any], init: Sequence[Any], xs: Sequence[Tensor], *rest: Any) -> Any:
    """One round per element of the scanned dimension; what the rounds put out is stacked.

    `rest` ends with additional inputs; before torch 2.7 the dimension and the direction stand in front of them.
    """
    dim, more = (rest[0] if len(rest) > 1 else 0), rest[-1] if rest else ()
    carried, found = list(init), []
    for i in range(xs[0].shape[dim]):
        both = list(combine(*carried, *(x.select(dim, i) for x in xs), *more))
        carried = both[: len(init)]
        found.append(both[len(init) :])
    return [*carried, *(torch.stack(column, dim) for column in zip(*found, strict=True))]


def _map(body: Callable[..., Any], xs: Sequence[Tensor], more: Sequence[Any] = (), **_: Any) -> Any:
    """The body on every element of the first dimension; what it puts out is stacked."""
    found = [body(*(x[i] for x in xs), *more) for i in range(xs[0].shape[0])]
    return [torch.stack(column) for column in zip(*found, strict=True)]


BODIES: dict[str, Callable[..., Any]] = {
    "higher_order::cond": _cond,
    "higher_order::while_loop": _while_loop,
    "higher_order::scan": _scan,
    "higher_order::map_impl": _map,
}
"""Name of a higher-order operator -> what runs its body."""
