"""The kernels that eager torch launches on an NVIDIA GPU for a recorded forward pass, with their arithmetic and bytes.

Autocast is played through: which operator runs in half precision, which in single, and the casts between them. So is
what eager torch does not fuse: the bias of a convolution, the copies before a matrix product, and the layouts that
cuDNN converts between.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from modelprobe.tracing.records import OpCall, TensorRef, Trace, numel

ELEMENTWISE, REDUCTION, COPY, CONV, MATMUL, DEPTHWISE, GROUPED, ATTENTION, RECURRENT, DEPTHWISE_LAST, UPSAMPLE = range(
    11
)
"""What a kernel is, as the device's rates tell them apart."""

KERNEL_KINDS = (
    "elementwise", "reduction", "copy", "convolution", "matmul", "depthwise", "grouped", "attention", "recurrent",
    "depthwise, channels last", "upsample",
)  # fmt: skip

HALF, SINGLE = 2, 4
"""Bytes of an element."""

_IN_HALF = frozenset({"conv", "matmul", "attention", "rnn"})
_IN_SINGLE = frozenset(
    "softmax log_softmax layer_norm group_norm instance_norm rms_norm pow rsqrt reciprocal exp expm1 log log2 log10 "
    "log1p sum prod cumsum cumprod norm linalg_vector_norm linalg_norm cosine_similarity cdist softplus tan acos asin "
    "cosh sinh erfinv logsumexp".split()
)
"""What autocast runs in half and in single precision on CUDA (torch's own lists, at the level of the ledger)."""

_REDUCING = frozenset({"reduction", "pooling", "norm"})
_MOVING = frozenset({"data", "interpolation", "view"})
_PRECISIONS = {"float16": HALF, "bfloat16": HALF, "float32": SINGLE, "float64": 8}


class GpuKernel(NamedTuple):
    """One launch. `nbytes` is read and written; `rows`, `columns` and `depth` are a product's, per group.

    `transposed` are the bytes of the layout conversions around a convolution, `op` the index in the ledger.
    """

    kind: int
    op: int
    macs: float = 0.0
    nbytes: float = 0.0
    rows: float = 0.0
    columns: float = 0.0
    depth: float = 0.0
    groups: int = 1
    window: int = 1
    transposed: float = 0.0


@dataclass
class _Lowering:
    """Which precision and layout every value has, while the ledger is walked."""

    amp: bool
    size: dict[int, int] = field(default_factory=dict)
    channels_last: set[int] = field(default_factory=set)
    cast: set[tuple[int, int]] = field(default_factory=set)

    def bytes_of(self, ref: TensorRef) -> int:
        """Bytes of an element of a value."""
        known = self.size.get(ref.value)
        return known if known is not None else _PRECISIONS.get(ref.dtype, max(1, ref.nbytes // max(1, ref.numel)))

    def strided(self, ref: TensorRef) -> bool:
        """Whether a kernel that wants the order of the indices has to copy it first."""
        return ref.contiguous if ref.value in self.channels_last and len(ref.shape) == 4 else not ref.contiguous


def kernels_of(trace: Trace, *, amp: bool = True) -> tuple[GpuKernel, ...]:
    """The launches of a recorded forward, in order."""
    return tuple(lowered(trace.ops, amp=amp))


def lowered(ops: Iterable[OpCall], *, amp: bool) -> Iterator[GpuKernel]:
    """The launches of these operators; under `amp`, as autocast to float16 runs them."""
    state = _Lowering(amp)
    for index, op in enumerate(ops):
        if op.outputs:
            yield from _launches(state, index, op)


def _launches(state: _Lowering, index: int, op: OpCall) -> Iterator[GpuKernel]:
    name = op.name.partition(".")[2].partition(".")[0]
    stored = {ref.storage for ref in op.inputs}
    in_place = name.endswith("_") and not name.endswith("__")
    if not in_place and all(ref.storage in stored for ref in op.outputs):
        _pass_on(state, op)  # a view
        return
    if op.kind in _IN_HALF:
        yield from _casts(state, index, op.inputs, HALF)
        yield from _product_launches(state, index, op)
        _set_precision(state, op.outputs, HALF)
        return
    if state.amp and name.rstrip("_") in _IN_SINGLE:
        yield from _casts(state, index, op.inputs, SINGLE)
        width = SINGLE
    else:
        # Batch norm keeps the precision of its input, whatever its weights have.
        width = _promoted(state, op.inputs[:1] if in_place or name == "batch_norm" else op.inputs)
    if op.kind == "norm" and len(op.inputs) and state.strided(op.inputs[0]) and name != "batch_norm":
        yield _copy_launch(state, index, op.inputs[0], width)
    kind = ELEMENTWISE
    if op.kind in _REDUCING or name.endswith("softmax"):
        kind = ELEMENTWISE if name == "batch_norm" else REDUCTION
    elif op.kind in _MOVING:
        kind = COPY
    read = sum(ref.numel * (width if state.amp and width == SINGLE and name in _IN_SINGLE else state.bytes_of(ref))
               for ref in op.inputs)  # fmt: skip
    _set_precision(state, op.outputs, width)
    written = sum(ref.numel * state.bytes_of(ref) for ref in op.outputs)
    if op.kind == "creation":
        read = 0
    if name.startswith("upsample_bi"):
        # A thread for each position, which walks over all images and channels.
        planes = numel(op.outputs[0].shape[:2])
        yield GpuKernel(UPSAMPLE, index, 0, read + written, planes)
        return
    yield GpuKernel(kind, index, op.flops / 2, read + written)
    if not in_place and any(ref.value in state.channels_last for ref in op.inputs) and op.kind != "view":
        state.channels_last.update(ref.value for ref in op.outputs if len(ref.shape) == 4)


def _pass_on(state: _Lowering, op: OpCall) -> None:
    by_storage = {ref.storage: ref for ref in op.inputs}
    for ref in op.outputs:
        source = by_storage[ref.storage]
        if _is_floating(ref):
            state.size[ref.value] = state.bytes_of(source)
        if source.value in state.channels_last:
            state.channels_last.add(ref.value)


def _casts(state: _Lowering, index: int, inputs: Sequence[TensorRef], width: int) -> Iterator[GpuKernel]:
    """The kernels by which autocast brings inputs to a precision; a value is cast once where torch caches it."""
    if not state.amp:
        return
    for ref in inputs:
        now = state.bytes_of(ref)
        if now != width and _is_floating(ref) and (ref.value, width) not in state.cast:
            if ref.value not in state.size:  # a parameter: the cast is kept for the rest of the forward
                state.cast.add((ref.value, width))
            yield GpuKernel(ELEMENTWISE, index, 0, ref.numel * (now + width))


def _product_launches(state: _Lowering, index: int, op: OpCall) -> Iterator[GpuKernel]:
    width = HALF if state.amp else _promoted(state, op.inputs)
    name = op.name.partition(".")[2]
    if op.kind == "conv":
        yield from _convolution_launches(state, index, op, width)
    elif op.kind == "attention":
        yield _attention_launch(index, op, width)
    elif op.kind == "rnn":
        moved = sum(ref.numel for ref in (*op.inputs, *op.outputs)) * width
        yield GpuKernel(RECURRENT, index, op.macs, moved, rows=float(max(1, op.inputs[0].shape[0])))
    else:
        yield from _matmul(state, index, op, width, name)


def _convolution_launches(state: _Lowering, index: int, op: OpCall, width: int) -> Iterator[GpuKernel]:
    source, weight, result = op.inputs[0], op.inputs[1], op.outputs[0]
    last = (state.strided(source) and len(source.shape) == 4) or source.value in state.channels_last
    transposing = "transpose" in op.name
    taps = numel(weight.shape[2:])
    groups = max(1, source.shape[1] // max(1, weight.shape[0 if transposing else 1]))
    inner, outer = weight.shape[1] * taps, weight.shape[0] / groups
    moved = (source.numel + result.numel + weight.numel) * width
    depthwise = groups > 1 and weight.shape[1] == 1 and not transposing
    kind = (DEPTHWISE_LAST if last else DEPTHWISE) if depthwise else GROUPED if groups > 1 else CONV
    turned = 0 if last or depthwise else 2 * (source.numel + result.numel) * width
    rows = result.numel / max(1, weight.shape[0])
    yield GpuKernel(kind, index, op.macs, moved, rows, outer, inner, groups, taps, turned)
    native = depthwise and not last  # torch's own kernel, which adds the bias itself
    if len(op.inputs) > 2 and not native:
        yield GpuKernel(ELEMENTWISE, index, 0, 2 * result.numel * width)
    if last:
        state.channels_last.add(result.value)


def _matmul(state: _Lowering, index: int, op: OpCall, width: int, name: str) -> Iterator[GpuKernel]:
    first, result = op.inputs[0], op.outputs[0]
    linear = name.startswith(("linear", "addmm"))
    for ref in op.inputs[:1] if linear else op.inputs[:2]:
        if len(ref.shape) > 2 and state.strided(ref) and not _foldable(ref, 1 if linear else 2):
            yield _copy_launch(state, index, ref, width)
    columns = result.shape[-1] if result.shape else 1
    depth = op.macs / max(1, result.numel)
    groups = 1 if linear or len(result.shape) < 3 else numel(result.shape[:-2])
    rows = result.numel / max(1, columns) / groups
    moved = sum(ref.numel for ref in (*op.inputs[:2], result)) * width
    yield GpuKernel(MATMUL, index, op.macs, moved, rows, columns, depth, groups)
    if linear and len(op.inputs) > 2 and len(first.shape) > 2 and state.strided(first):
        yield GpuKernel(ELEMENTWISE, index, 0, 2 * result.numel * width)  # the bias, which is fused otherwise


def _attention_launch(index: int, op: OpCall, width: int) -> GpuKernel:
    query = op.inputs[0]
    masked = len(op.inputs) > 3
    moved = sum(ref.numel for ref in (*op.inputs, *op.outputs)) * width
    heads = numel(query.shape[:-2])
    columns = op.inputs[1].shape[-2]
    # `window` 2 marks a mask: torch's memory-efficient kernel takes it, its flash kernel does not.
    return GpuKernel(
        ATTENTION,
        index,
        op.macs,
        moved,
        query.shape[-2],
        columns,
        query.shape[-1],
        heads,
        1 + masked + 2 * (len(query.shape) != 4),
    )


def _copy_launch(state: _Lowering, index: int, ref: TensorRef, width: int) -> GpuKernel:
    return GpuKernel(COPY, index, 0, ref.numel * 2 * width)


def _foldable(ref: TensorRef, matrix: int) -> bool:
    """Whether a product takes the strides as they are: all dims but the last `matrix` fold into one."""
    if not ref.strides or 1 not in ref.strides[-2:] or (matrix == 1 and ref.strides[-1] != 1):
        return False
    steps = [(n, step) for n, step in zip(ref.shape[:-matrix], ref.strides[:-matrix], strict=False) if n != 1]
    return all(outer == size * inner for (_, outer), (size, inner) in itertools.pairwise(steps))


def _set_precision(state: _Lowering, outputs: Sequence[TensorRef], width: int) -> None:
    for ref in outputs:
        if _is_floating(ref):
            state.size[ref.value] = width


def _promoted(state: _Lowering, inputs: Sequence[TensorRef]) -> int:
    """The precision of what has these inputs: scalars do not raise it."""
    wide = [state.bytes_of(ref) for ref in inputs if _is_floating(ref) and ref.shape]
    return max(wide, default=SINGLE)


def _is_floating(ref: TensorRef) -> bool:
    return ref.dtype.removeprefix("torch.") in _PRECISIONS
