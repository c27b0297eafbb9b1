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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.tracing.formulas import operator_name

LARGEST_FLOAT32 = 2**24
"""Whole numbers up to this are exact. Pixel numbers are floats, since some operators move nothing else."""


@dataclass(frozen=True)
class Place:
    """Pixel numbers (1 + row x width + column, 0 for none) of every element, in the shape of its tensor.

    `keys` are those of the columns of a product `q @ k^T`: what its last dimension looks at.
    """

    here: Tensor
    keys: Tensor | None = None

    def through(self, move: Callable[[Tensor], Tensor]) -> Place:
        """The place of what `move` makes of the tensor."""
        return Place(move(self.here), None if self.keys is None else move(self.keys))


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


class Positions(_PositionsBase):  # type: ignore[misc]
    """Follows the pixels of `image` [1, C, H, W]. `where` tells the path of the running module.

    `attended` grows with every attention. To be used in inference mode, where composite operators arrive whole.
    """

    supports_higher_order_operators = True

    def __init__(self, image: Tensor, where: Callable[[], str]) -> None:
        super().__init__()
        self.attended: list[Attended] = []
        self._where = where
        self._known: dict[int, tuple[weakref.ref[Tensor], Place]] = {}
        height, width = image.shape[-2:]
        dtype = torch.float32 if height * width < LARGEST_FLOAT32 else torch.float64
        pixels = torch.arange(1, height * width + 1, dtype=dtype, device=image.device).reshape(1, 1, height, width)
        self._set(image, Place(pixels.expand(image.shape)))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's base class would import `torch._dynamo`, which takes a second

    def place(self, tensor: Tensor) -> Place | None:
        """What is known of `tensor`."""
        known = self._known.get(id(tensor))
        # An id may be reused once its tensor is gone: the weak reference tells.
        return known[1] if known is not None and known[0]() is tensor else None

    def _set(self, tensor: Tensor, place: Place) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), place)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operator_name(func).removeprefix("aten::")
        if name not in PLACE_RULES and _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        places = [self.place(value) if isinstance(value, Tensor) else None for value in args]
        listed = _tensors_in_list(args)
        if any(places) or any(self.place(item) for item in listed):
            before = [list(map(self.place, listed))] if listed else []
            out = func(*args, **kwargs)
            self._follow(name, func, args, kwargs, places, before[0] if before else [], out)
            return out
        return func(*args, **kwargs)

    def _follow(
        self,
        name: str,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        places: list[Place | None],
        listed: list[Place | None],
        out: Any,
    ) -> None:
        rule = PLACE_RULES.get(name, elementwise)
        found = rule(PlacedCall(func, args, kwargs, places, listed, out))
        results = [out] if isinstance(out, Tensor) else out if isinstance(out, (tuple, list)) else []
        for result, place in zip(results, found, strict=False):
            if isinstance(result, Tensor) and place is not None:
                self._set(result, place)
        if name in FUSED_ATTENTION:
            self._fused(args, kwargs, places)
        elif name in SOFTMAX_OPERATORS and places[0] is not None and places[0].keys is not None:
            self._softmax(places[0], args, out)

    def _fused(self, args: Sequence[Any], kwargs: dict[str, Any], places: list[Place | None]) -> None:
        q, k, values = args[0], args[1], dict(zip(("mask", "dropout", "causal"), args[3:], strict=False))
        mask = kwargs.get("attn_mask", values.get("mask"))
        causal = bool(kwargs.get("is_causal", values.get("causal", False)))
        query, key = places[0], places[1]
        if key is None or q.shape[-1] != k.shape[-1]:
            return
        columns = key.here[..., 0]
        if k.shape[-3:-2] != q.shape[-3:-2]:  # grouped queries: every head of k serves several of q
            times = q.shape[-3] // k.shape[-3]
            k, columns = k.repeat_interleave(times, -3), columns.repeat_interleave(times, -2)
        rows = query.here[..., 0] if query is not None else torch.zeros(q.shape[:-1], device=q.device)
        scale = kwargs.get("scale")
        found = Attended(self._where(), rows, columns, None, q, k, mask, causal, scale)
        self.attended.append(found)

    def _softmax(self, place: Place, args: Sequence[Any], out: Tensor) -> None:
        assert place.keys is not None
        if args[1] in (-1, out.dim() - 1) and out.dim() >= 3:
            self.attended.append(Attended(self._where(), place.here[..., 0], place.keys[..., 0, :], out))


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


# How operators move places


@dataclass(frozen=True)
class PlacedCall:
    """An operator call: the places of its tensor arguments, and of the tensors in its first list, None for unknown."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    places: list[Place | None]
    listed: list[Place | None]
    out: Any


PlaceRule = Callable[[PlacedCall], Sequence["Place | None"]]


def moving_elements(call: PlacedCall) -> Sequence[Place | None]:
    """An operator that only moves elements of its first argument: it moves their numbers too."""
    place = call.places[0]
    if place is None:
        return ()
    many = not isinstance(call.out, Tensor)

    def moved(numbers: Tensor) -> Any:
        return call.func(numbers, *call.args[1:], **call.kwargs)

    here = moved(place.here)
    keys = None if place.keys is None else moved(place.keys)
    if not many:
        return (Place(here, keys),)
    return [Place(item, None if keys is None else keys[index]) for index, item in enumerate(here)]


def viewing(call: PlacedCall) -> Sequence[Place | None]:
    """`view`, of numbers that may lie otherwise in memory than their tensor."""
    place = call.places[0]
    return () if place is None else (place.through(lambda numbers: numbers.reshape(call.out.shape)),)


def joining(call: PlacedCall) -> Sequence[Place | None]:
    """`cat` and `stack`: what is unknown has no place."""
    tensors, rest = call.args[0], call.args[1:]

    known = next(place for place in call.listed if place is not None).here

    def joined(numbers: list[Tensor | None]) -> Tensor:
        full = [
            known.new_zeros(tensor.shape) if number is None else number
            for tensor, number in zip(tensors, numbers, strict=True)
        ]
        result: Tensor = call.func(full, *rest, **call.kwargs)
        return result

    here = joined([None if place is None else place.here for place in call.listed])
    keys = [None if place is None else place.keys for place in call.listed]
    return (Place(here, None if all(item is None for item in keys) else joined(keys)),)


def contracting(call: PlacedCall) -> Sequence[Place | None]:
    """A product `a @ b`, or `linear`: the rows keep a's place; the columns look at b's, where b has one."""
    first = 1 if call.func._schema.name in ("aten::addmm", "aten::baddbmm") else 0
    a, b = call.places[first], call.places[first + 1] if len(call.places) > first + 1 else None
    shape = call.out.shape
    here = None if a is None else _row_places(a.here, shape)
    keys = None if a is None or a.keys is None else _row_places(a.keys, shape)
    if b is not None and keys is None and b.here.dim() >= 2 and call.func._schema.name != "aten::linear":
        columns = b.here[..., :1, :]
        if bool((columns == b.here).all()):
            keys = torch.broadcast_to(columns, shape)
    if here is None and keys is None:
        return ()
    return (Place(call.out.new_zeros(1, dtype=torch.float32).expand(shape) if here is None else here, keys),)


def _row_places(numbers: Tensor, shape: torch.Size) -> Tensor | None:
    """The place of each row, for every column; None when the contraction runs over the positions themselves."""
    first = numbers[..., :1]
    mixed = numbers.stride(-1) != 0 and bool((first != numbers).any())
    if mixed and bool((first == first.flatten()[0]).all()):
        return None
    if numbers.dim() != len(shape):
        return None
    return torch.broadcast_to(first, shape)


def attending(call: PlacedCall) -> Sequence[Place | None]:
    """Fused attention puts out a row for every query."""
    query = call.places[0]
    return () if query is None else (Place(query.here[..., :1].expand(call.out.shape)),)


def reducing(call: PlacedCall) -> Sequence[Place | None]:
    """A mean, sum or maximum is where its first element is, unless it is over all places."""
    place, dims = call.places[0], call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    if place is None or dims is None or dims == []:
        return ()
    wanted = [dims] if isinstance(dims, int) else list(dims)
    first = place.here.amin(wanted)
    moved = place.here.amax(wanted) != first
    if bool(moved.any()) and bool((first == first.flatten()[0]).all()):
        return ()
    results = [call.out] if isinstance(call.out, Tensor) else list(call.out)
    return [Place(first.reshape(result.shape)) for result in results]


def elementwise(call: PlacedCall) -> Sequence[Place | None]:
    """Everything else: an argument's place where a result has its shape; the nearest pixel where its grid changed."""
    known = [place for place in (*call.places, *call.listed) if place is not None]
    results = [call.out] if isinstance(call.out, Tensor) else call.out if isinstance(call.out, (tuple, list)) else []
    return [_fitting(known, item.shape) if isinstance(item, Tensor) else None for item in results]


def convolving(call: PlacedCall) -> Sequence[Place | None]:
    """Convolution and pooling: the place of the first channel, at the nearest pixel of the new grid."""
    place = call.places[0]
    if place is None:
        return ()
    results = [call.out] if isinstance(call.out, Tensor) else list(call.out)
    return [_resampled(place, item.shape) for item in results]


def _fitting(known: Sequence[Place], shape: torch.Size) -> Place | None:
    for place in known:
        if place.here.shape == shape:
            return place
    for place in known:
        if place.here.dim() <= len(shape) and _broadcasts(place.here.shape, shape):
            return place.through(lambda numbers: torch.broadcast_to(numbers, shape))
    return _resampled(known[0], shape) if len(shape) == 4 and known[0].here.dim() == 4 else None


def _broadcasts(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return all(size in (1, want) for size, want in pairs)


def _resampled(place: Place, shape: torch.Size) -> Place | None:
    numbers = place.here
    if numbers.dim() != len(shape) or numbers.dim() not in (3, 4) or numbers.shape[0] != shape[0]:
        return None
    if min(shape[2:]) < 1 or max(shape[2:]) == 1:
        return None
    first = numbers[:, :1]
    if numbers.stride(1) != 0 and bool((first == first.flatten()[0]).all()):
        return None
    first = _without_padding(first)
    if first.shape[2:] != shape[2:]:
        first = functional.interpolate(first, size=tuple(shape[2:]), mode="nearest")
    return Place(first.expand(shape))


def _without_padding(numbers: Tensor) -> Tensor:
    """[1, 1, H, W] without a border of no place, which a convolution that pads explicitly is given."""
    if numbers.dim() != 4 or bool(numbers[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].all()):
        return numbers
    rows, columns = numbers[0, 0].any(1).nonzero().flatten(), numbers[0, 0].any(0).nonzero().flatten()
    if not len(rows):
        return numbers
    inside = numbers[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return inside if bool(inside.all()) else numbers


def _tensors_in_list(args: Sequence[Any]) -> list[Tensor]:
    """The tensors of the first argument, where that is a list (`cat`)."""
    if not args or not isinstance(args[0], (list, tuple)):
        return []
    return [item for item in args[0] if isinstance(item, Tensor)]


def _is_composite(func: Any) -> bool:
    return getattr(func, "_schema", None) is not None and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    )


FUSED_ATTENTION = frozenset({"scaled_dot_product_attention"})
SOFTMAX_OPERATORS = frozenset({"softmax", "_softmax"})

PLACE_RULES: dict[str, PlaceRule] = {
    **dict.fromkeys("view _unsafe_view reshape _reshape_alias".split(), viewing),
    **dict.fromkeys(
        "permute transpose t expand squeeze unsqueeze select slice index index_select gather split split_with_sizes "
        "unbind roll flip constant_pad_nd reflection_pad2d replication_pad2d repeat unfold im2col pixel_shuffle "
        "pixel_unshuffle channel_shuffle repeat_interleave".split(),
        moving_elements,
    ),
    **dict.fromkeys("cat stack".split(), joining),
    **dict.fromkeys("linear matmul mm bmm addmm baddbmm".split(), contracting),
    **dict.fromkeys("mean sum amax amin max".split(), reducing),
    **dict.fromkeys(
        "conv1d conv2d convolution conv_transpose2d max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d "
        "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d".split(),
        convolving,
    ),
    **dict.fromkeys(FUSED_ATTENTION, attending),
    **dict.fromkeys(SOFTMAX_OPERATORS, elementwise),
}
"""Operator -> how it moves places. Composite operators that are not here are taken apart."""
