"""The image position of every element of every activation, carried along by a dispatch mode.

Each tensor that is made from the image has a `Place` beside it: the number of a pixel for every element, or 0 where
there is none (class tokens, padding). What moves elements (a permutation, a roll, a partition into windows) moves the
numbers with the same operator; what computes on each position keeps them; what mixes all positions loses them. So the
layout of a layer is read off, instead of being guessed from its shape: NCHW and NHWC, tokens with any prefix, shifted
windows, any order of tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.tracing.formulas import operator_name
from modelprobe.vision.positions.coordinates import Coordinates
from modelprobe.vision.positions.place import Place, PlacedCall, tensors_in
from modelprobe.vision.positions.resampling import convolving, spatial_rank
from modelprobe.vision.positions.rules import (
    CONVOLUTIONS,
    FUSED_ATTENTION,
    PLACE_RULES,
    SOFTMAX_OPERATORS,
    elementwise,
)


@dataclass(frozen=True)
class Attended:
    """One attention of the forward pass: softmax over keys, at module `path`.

    Either `weights` [.., heads, queries, keys] as the model computed them, or the operands of a fused kernel, from
    which `attention_weights` computes them. `queries` [.., queries] and `keys` [.., keys] are pixel numbers.
    """

    path: str
    queries: Tensor
    keys: Tensor
    weights: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weights."""
        if self.weights is not None:
            return tuple(self.weights.shape)
        assert self.q is not None
        assert self.k is not None
        return (*self.q.shape[:-1], self.k.shape[-2])


_PositionsBase: Any = TorchDispatchMode  # whose methods have no types in some releases of torch


def unseen() -> AbstractContextManager[None]:
    """Within, no dispatch mode sees the operators: what is computed with numbers is no part of the forward."""
    guard: AbstractContextManager[None] = torch._C._DisableTorchDispatch()
    return guard


class Positions(_PositionsBase):  # type: ignore[misc]
    """Follows the places of `inputs`, numbered by `coordinates`. `where` tells the path of the running module.

    The numbers are on the CPU, the network may be on `meta`. `attended` grows with every attention, unless
    `keep_attention` is False: it holds their operands. With `restart` the
    output of a convolution whose input has no place is numbered anew, as a sample that is not of the inputs; so is what
    pooling and upsampling make of something pooled. To be used in inference mode, where composite operators arrive
    whole.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        inputs: Sequence[Tensor],
        coordinates: Coordinates,
        where: Callable[[], str] = lambda: "",
        restart: bool = False,
        keep_attention: bool = True,
    ) -> None:
        super().__init__()
        self.attended: list[Attended] = []
        self.coordinates = coordinates
        self._where, self._restart, self._keep_attention = where, restart, keep_attention
        self._known: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}
        sample = 0
        for tensor in inputs:
            self.set_place(tensor, Place(coordinates.numbered(tensor.shape, sample)))
            sample += tensor.shape[0] if tensor.dim() > 1 else 1

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's base class would import `torch._dynamo`, which takes a second

    def place(self, tensor: Tensor) -> Place | None:
        """What is known of `tensor`."""
        place = self._known[id(tensor)][1] if self.derived(tensor) else None
        # An operator in place (`resize_`) may have changed the shape.
        return place if place is not None and place.here.shape == tensor.shape else None

    def derived(self, tensor: Tensor) -> bool:
        """Whether `tensor` was made from the inputs, be its place known or not."""
        known = self._known.get(id(tensor))
        # An id may be reused once its tensor is gone: the weak reference tells.
        return known is not None and known[0]() is tensor

    def set_place(self, tensor: Tensor, place: Place | None) -> None:
        """Say where the elements of `tensor` lie; None for nowhere that is known."""
        key = id(tensor)

        def forget(gone: weakref.ref[Tensor]) -> None:
            if self._known.get(key, (None,))[0] is gone:  # numbers may take as much memory as the tensor
                del self._known[key]

        self._known[key] = (weakref.ref(tensor, forget), place)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operator_name(func).removeprefix("aten::").removeprefix("torchvision::")
        if name not in PLACE_RULES and _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        places = [self.place(value) if isinstance(value, Tensor) else None for value in args]
        listed = list(map(self.place, _tensors_in_list(args)))
        derived = any(map(self.derived, tensors_in((*args, *kwargs.values()))))
        out = func(*args, **kwargs)
        results = tensors_in(out)
        for result in results if derived else ():
            if not self.derived(result):
                self.set_place(result, None)
        if (derived or self._restart) and all(result.numel() for result in results):
            with unseen():
                self._follow(name, PlacedCall(func, args, kwargs, places, listed, out, self.coordinates))
        return out

    def _follow(self, name: str, call: PlacedCall) -> None:
        rule, first = PLACE_RULES.get(name, elementwise), call.places[0] if call.places else None
        if call.known:
            for result, place in zip(call.results, rule(call), strict=False):
                if isinstance(result, Tensor) and place is not None:
                    self.set_place(result, place)
        if name in FUSED_ATTENTION and self._keep_attention:
            self._fused(call)
        elif name in SOFTMAX_OPERATORS and self._keep_attention and first is not None:
            self._softmax(first, call)
        elif self._restart and rule is convolving and (name in CONVOLUTIONS if first is None else not first.anywhere):
            self._number_anew(call)

    def _number_anew(self, call: PlacedCall) -> None:
        rank = spatial_rank(call)
        for result in call.results:
            shape = result.shape
            if rank > 1 and max(shape[-rank:]) > 1:
                batched = shape if len(shape) == rank + 2 else (1, *shape)
                numbers = self.coordinates.numbered(batched, self.coordinates.samples)
                self.set_place(result, Place(numbers.reshape(shape)))

    def _fused(self, call: PlacedCall) -> None:
        args, kwargs = call.args, call.kwargs
        q, k, values = args[0], args[1], dict(zip(("mask", "dropout", "causal"), args[3:], strict=False))
        mask = kwargs.get("attn_mask", values.get("mask"))
        causal = bool(kwargs.get("is_causal", values.get("causal", False)))
        query, key = call.places[:2]
        if key is None or q.shape[-1] != k.shape[-1]:
            return
        columns = key.here[..., 0]
        if k.shape[-3:-2] != q.shape[-3:-2]:  # grouped queries: every head of k serves several of q
            times = q.shape[-3] // k.shape[-3]
            k, columns = k.repeat_interleave(times, -3), columns.repeat_interleave(times, -2)
        rows = query.here[..., 0] if query is not None else columns.new_zeros(q.shape[:-1])
        scale = kwargs.get("scale")
        found = Attended(self._where(), rows, columns, None, q, k, mask, causal, scale)
        self.attended.append(found)

    def _softmax(self, place: Place, call: PlacedCall) -> None:
        args, out = call.args, call.out
        if place.keys is not None and args[1] in (-1, out.dim() - 1) and out.dim() >= 3:
            weights = out.clone()  # models drop and scale them in place
            self.attended.append(Attended(self._where(), place.here[..., 0], place.keys[..., 0, :], weights))


def attention_weights(found: Attended, heads: Sequence[int] | None = None) -> Tensor:
    """The softmax over keys [.., heads, queries, keys], of the `heads` asked for alone (of all when None)."""
    chosen = slice(None) if heads is None else list(heads)
    if found.weights is not None:
        return found.weights[..., chosen, :, :] if found.weights.dim() >= 3 else found.weights
    assert found.q is not None
    assert found.k is not None
    q, k, mask = found.q[..., chosen, :, :].float(), found.k[..., chosen, :, :].float(), found.mask
    scores = (q @ k.transpose(-2, -1)) * (found.scale if found.scale is not None else q.shape[-1] ** -0.5)
    if mask is not None and mask.dim() >= 3 and mask.shape[-3] != 1:
        mask = mask[..., chosen, :, :]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if found.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)


def _tensors_in_list(args: Sequence[Any]) -> list[Tensor]:
    """The tensors of the first argument, where that is a list (`cat`)."""
    if not args or not isinstance(args[0], (list, tuple)):
        return []
    return [item for item in args[0] if isinstance(item, Tensor)]


def _is_composite(func: Any) -> bool:
    return getattr(func, "_schema", None) is not None and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    )
