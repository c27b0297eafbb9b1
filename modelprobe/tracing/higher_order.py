"""Higher-order operators entered: their bodies run as plain code, so that the operators inside are seen.

torch's own kernels for `cond`, `while_loop` and `scan` refuse to run under a dispatch mode. An operator that is not
here is run whole and named as uncounted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


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
