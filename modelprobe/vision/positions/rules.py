"""How operators move the numbers of places: with their elements, to the nearest place, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelprobe.vision.positions.coordinates import Coordinates, compact, moves
from modelprobe.vision.positions.place import Place, PlacedCall, PlaceRule, moving_elements
from modelprobe.vision.positions.resampling import convolving, folding, padding, resampled, shuffling, unfolding

# What moves elements


def viewing(call: PlacedCall) -> Sequence[Place | None]:
    """`view`, of numbers that may lie otherwise in memory than their tensor."""
    place = call.places[0]
    if place is None or place.here.numel() != call.out.numel():  # a view as another dtype
        return ()
    return (place.through(lambda numbers: _reshaped(numbers, call.out.shape)),)


def _reshaped(numbers: Tensor, shape: torch.Size) -> Tensor:
    """The same numbers in another shape; dimensions at the end that were only expanded (channels) are not copied."""
    first = numbers.dim()
    while first and (numbers.stride(first - 1) == 0 or numbers.shape[first - 1] == 1):
        first -= 1
    old, new, old_size, new_size = numbers.dim(), len(shape), 1, 1
    kept = old, new  # from these dimensions on both are of the same size, and repetitions
    while True:
        if old_size == new_size:
            kept = old, new
        if old_size <= new_size and old > first:
            old -= 1
            old_size *= numbers.shape[old]
        elif new_size < old_size and new:
            new -= 1
            new_size *= shape[new]
        else:
            break
    old, new = kept
    rest = numbers
    while rest.dim() > old:
        rest = rest.select(-1, 0)
    return rest.reshape([*shape[:new], *[1] * (len(shape) - new)]).expand(shape)


def rolling(call: PlacedCall) -> Sequence[Place | None]:
    """`roll` and `flip`, without a copy for every channel."""
    place = call.places[0]
    if place is None:
        return ()
    return (place.through(lambda n: call.func(compact(n), *call.args[1:], **call.kwargs).expand(n.shape)),)


def joining(call: PlacedCall) -> Sequence[Place | None]:
    """`cat` and `stack`: what is unknown has no place, unless it joins the others as channels of the same places."""
    tensors, rest = call.args[0], call.args[1:]
    dim = (rest[0] if rest else call.kwargs.get("dim", 0)) % call.out.dim()
    places = [place for place in call.listed if place is not None]
    channels = _same_places(call, [place for place in places if place.anywhere], dim)
    if channels is not None:
        return (Place(channels.expand(call.out.shape)),)

    def joined(numbers: list[Tensor | None]) -> Tensor:
        full = [
            torch.zeros(tensor.shape, dtype=torch.float64) if number is None else number
            for tensor, number in zip(tensors, numbers, strict=True)
        ]
        result: Tensor = call.func(full, *rest, **call.kwargs)
        return result

    here = joined([None if place is None else place.here for place in call.listed])
    keys = [None if place is None else place.keys for place in call.listed]
    return (Place(here, None if all(item is None for item in keys) else joined(keys)),)


def _same_places(call: PlacedCall, places: Sequence[Place], dim: int) -> Tensor | None:
    """The place of all joined parts, of size 1 along `dim`, where they are channels of the same places."""
    if not places or any(place.keys is not None for place in places):
        return None
    if call.out.dim() != places[0].here.dim():  # `stack`
        alike = len(places) == len(call.args[0]) and all(
            torch.equal(compact(place.here), compact(places[0].here)) for place in places[1:]
        )
        return places[0].here.unsqueeze(dim) if alike else None
    if any(moves(place.here, dim) for place in places):
        return None
    first = [place.here.narrow(dim, 0, 1) for place in places]
    # More than one element along `dim` that do not move: these are channels, though another branch may have been
    # resampled a little otherwise. A single one may be anything.
    channels = all(place.here.shape[dim] > 1 for place in places)
    alike = len(places) == len(call.args[0]) and all(torch.equal(first[0], other) for other in first[1:])
    return first[0] if channels or alike else None


# What computes with rows


def contracting(call: PlacedCall) -> Sequence[Place | None]:
    """A product `a @ b`, or `linear`: the rows keep a's place; the columns look at b's, where b has one."""
    first = 1 if call.func._schema.name in ("aten::addmm", "aten::baddbmm") else 0
    a, b = call.places[first], call.places[first + 1] if len(call.places) > first + 1 else None
    shape = call.out.shape
    here = None if a is None else _row_places(a.here, shape)
    keys = None if a is None or a.keys is None else _row_places(a.keys, shape)
    if b is not None and keys is None and b.here.dim() >= 2 and call.func._schema.name != "aten::linear":
        columns = b.here[..., :1, :]
        if not moves(b.here, b.here.dim() - 2):
            keys = torch.broadcast_to(columns, shape) if b.anywhere else None
    if here is None and keys is None:
        return ()
    return (Place(torch.zeros(1, dtype=torch.float64).expand(shape) if here is None else here, keys),)


def _row_places(numbers: Tensor, shape: torch.Size) -> Tensor | None:
    """The place of each row, for every column; None when the contraction runs over the positions themselves."""
    first = numbers[..., :1]
    if moves(numbers, numbers.dim() - 1) and bool((first == first.flatten()[0]).all()):
        return None
    if numbers.dim() != len(shape):
        return None
    return torch.broadcast_to(first, shape)


def attending(call: PlacedCall) -> Sequence[Place | None]:
    """Fused attention puts out a row for every query."""
    query = call.places[0]
    out = call.results[0]
    return () if query is None else (Place(query.here[..., :1].expand(out.shape)),)


def reducing(call: PlacedCall) -> Sequence[Place | None]:
    """A mean, sum or maximum is where its first element is, and nowhere if it is over all places."""
    place, dims = call.places[0], call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    if isinstance(dims, (Tensor, bool)):  # the larger of two; a deviation over everything
        return elementwise(call)
    if place is None or dims is None or dims == []:
        return ()
    wanted = [dims] if isinstance(dims, int) else list(dims)
    first = place.here.amin(wanted)
    moved = place.here.amax(wanted) != first
    if bool(moved.any()) and bool((first == first.flatten()[0]).all()):
        first = torch.zeros_like(first)
    return [Place(first.reshape(result.shape)) if result.numel() == first.numel() else None for result in call.results]


def normalising(call: PlacedCall) -> Sequence[Place | None]:
    """A norm over the last dimension alone: those are channels, whatever was put into them."""
    place = call.places[0]
    shape = call.args[1] if len(call.args) > 1 else call.kwargs.get("normalized_shape", ())
    if place is not None and len(shape) == 1 and moves(place.here, place.here.dim() - 1):
        rows = _row_places(place.here, place.here.shape)
        return () if rows is None else (Place(rows),)
    return elementwise(call)


def embedding(call: PlacedCall) -> Sequence[Place | None]:
    """A row of a table for every index: where the index is."""
    place = call.places[1] if len(call.places) > 1 else None
    return () if place is None else (place.through(lambda numbers: numbers.unsqueeze(-1).expand(call.out.shape)),)


def recurring(call: PlacedCall) -> Sequence[Place | None]:
    """`lstm` and its like put out a state for every element of a sequence."""
    place, out = call.places[0], call.results[0]
    if place is None or place.here.dim() != out.dim():
        return ()
    rows = _row_places(place.here, out.shape)
    return () if rows is None else (Place(rows),)


def sorting(call: PlacedCall) -> Sequence[Place | None]:
    """`sort` and `topk` put places into another order; among channels they may."""
    place = call.places[0]
    dim = next((value for value in call.args[1:] if type(value) is int), -1)
    if call.func._schema.name == "aten::topk":
        dim = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", -1)
    if place is None or moves(place.here, dim % place.here.dim()):
        return ()
    return [Place(place.here.narrow(dim, 0, 1).expand(result.shape)) for result in call.results]


def filling(call: PlacedCall) -> Sequence[Place | None]:
    """What is written to an index leaves the rest where it was."""
    return (call.places[0],)


def losing(call: PlacedCall) -> Sequence[Place | None]:
    """What mixes all elements along a dimension without a change of shape (Fourier transforms), or cuts parts out."""
    return ()


def elementwise(call: PlacedCall) -> Sequence[Place | None]:
    """Everything else: an argument's place where a result has its shape; the nearest place where its grid changed."""
    known = call.known
    return [
        _fitting(known, item.shape, call.coordinates) if isinstance(item, Tensor) and known else None
        for item in call.results
    ]


def _fitting(known: Sequence[Place], shape: torch.Size, coordinates: Coordinates) -> Place | None:
    """The place of what has the result's shape, else of what is broadcast to it; those that lie on the input first."""
    same = [place for place in known if place.here.shape == shape]
    wider = [place for place in known if place.here.shape != shape and _broadcasts(place.here.shape, shape)]
    fitting = [*same, *wider]
    best = min(fitting, key=lambda place: _uncertainty(place, coordinates), default=None)
    if best is not None:
        return best if best.here.shape == shape else best.through(lambda numbers: torch.broadcast_to(numbers, shape))
    return resampled(known[0], shape, len(shape) - 2, coordinates) if len(shape) in (4, 5) else None


def _uncertainty(place: Place, coordinates: Coordinates) -> int:
    if place.anywhere:
        return int(place.highest > coordinates.last)
    return 2 if place.keys is not None else 3


def _broadcasts(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(size in (1, want) for size, want in pairs)


FUSED_ATTENTION = frozenset(
    "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention".split()
)
SOFTMAX_OPERATORS = frozenset({"softmax", "_softmax"})
CONVOLUTIONS = frozenset(
    "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d _convolution".split()
)

PLACE_RULES: dict[str, PlaceRule] = {
    **dict.fromkeys("view _unsafe_view reshape _reshape_alias".split(), viewing),
    **dict.fromkeys(
        "permute transpose t expand squeeze unsqueeze select slice index index_select gather split split_with_sizes "
        "_unsafe_index unbind repeat unfold pixel_unshuffle channel_shuffle repeat_interleave".split(),
        moving_elements,
    ),
    **dict.fromkeys(
        "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d".split(),
        padding,
    ),
    **dict.fromkeys("roll flip".split(), rolling),
    **dict.fromkeys("cat stack".split(), joining),
    **dict.fromkeys("linear matmul mm bmm addmm baddbmm".split(), contracting),
    **dict.fromkeys("mean sum amax amin max min var std var_mean logsumexp argmax argmin any all".split(), reducing),
    **dict.fromkeys("layer_norm native_layer_norm rms_norm".split(), normalising),
    **dict.fromkeys("batch_norm group_norm instance_norm dropout feature_dropout".split(), elementwise),
    **dict.fromkeys(
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
        "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d "
        "_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d "
        "upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa".split(),
        convolving,
    ),
    **dict.fromkeys(CONVOLUTIONS, convolving),
    **dict.fromkeys("lstm gru rnn_tanh rnn_relu".split(), recurring),
    **dict.fromkeys("sort topk argsort msort".split(), sorting),
    **dict.fromkeys("index_put index_put_ index_fill index_fill_".split(), filling),
    **dict.fromkeys("_fft_r2c _fft_c2c _fft_c2r roi_align roi_pool ps_roi_align ps_roi_pool".split(), losing),
    **dict.fromkeys(FUSED_ATTENTION, attending),
    **dict.fromkeys(SOFTMAX_OPERATORS, elementwise),
    "pixel_shuffle": shuffling,
    "im2col": unfolding,
    "col2im": folding,
    "embedding": embedding,
}
"""Operator -> how it moves places. Composite operators that are not here are taken apart."""
