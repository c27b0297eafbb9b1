"""What lookups and scattered writes cost: bytes of the rows that are touched, and a sum where rows accumulate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


def _size(*tensors: Any) -> int:
    """Bytes of the tensors among the arguments."""
    return sum(item.numel() * item.element_size() for item in tensors if isinstance(item, Tensor))


@formula("aten::embedding", kind="embedding")
def embedding(table: Tensor, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A lookup: reads the rows that are asked for, not the table; no arithmetic."""
    return Cost(0, 0, _size(out, indices), _size(out))


@formula("aten::embedding_renorm", kind="embedding")
def embedding_renorm(table: Tensor, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """The norm of every row that is asked for (2 per element) and a product; a row named twice counts twice."""
    touched = indices.numel() * table.shape[-1]
    size = touched * table.element_size()
    return Cost(0, 3 * touched, size + _size(indices), size)


@formula("aten::index_select", "aten::gather", "aten::take", "aten::take_along_dim", kind="data")
def lookup(x: Tensor, *args: Any, out: Tensor, **_: Any) -> Cost:
    """Reads what it puts out and the indices; no arithmetic."""
    return Cost(0, 0, _size(out, *args), _size(out))


@formula("aten::index", "aten::_unsafe_index", "aten::_unsafe_masked_index", kind="data")
def index(x: Tensor, indices: Any, *_: Any, out: Tensor, **__: Any) -> Cost:
    """x[indices]: reads what it puts out and the indices (of a mask, all of it)."""
    return Cost(0, 0, _size(out, *(indices if isinstance(indices, (list, tuple)) else [indices])), _size(out))


def _scattered(x: Tensor, out: Any, moved: int, flops: int, *operands: Any) -> Cost:
    """A write of `moved` elements into x: in place only those are touched, else all of x is copied as well.

    Where numbers accumulate (`flops`), the old ones are read, too.
    """
    touched = moved * x.element_size()
    base = 0 if out is x else _size(x)
    return Cost(0, flops, base + _size(*operands) + (touched if flops else 0), max(base, touched))


@formula("aten::index_put", "aten::_unsafe_index_put", "aten::_index_put_impl", kind="data")
def index_put(
    x: Tensor, indices: Any, values: Tensor, accumulate: bool = False, *_: Any, out: Tensor, **__: Any
) -> Cost:
    """x[indices] = values, or += values: a sum per value. A lone number fills the places, which only data tell."""
    return _scattered(x, out, values.numel(), values.numel() if accumulate else 0, values, *indices)


@formula("aten::put", kind="data")
def put(x: Tensor, indices: Tensor, source: Tensor, accumulate: bool = False, *, out: Tensor) -> Cost:
    """The same with flat indices."""
    return _scattered(x, out, source.numel(), source.numel() if accumulate else 0, source, indices)


@formula("aten::scatter", kind="data")
def scatter(
    x: Tensor, dim: int, indices: Tensor, source: Any = None, *, value: Any = None, reduce: Any = None, out: Tensor
) -> Cost:
    """One element of the source, or a number, goes to the place that each index names; `reduce` combines it."""
    count = indices.numel()
    return _scattered(x, out, count, count if reduce is not None else 0, source, indices)


@formula("aten::scatter_add", "aten::scatter_reduce", kind="reduction")
def scatter_sum(x: Tensor, dim: int, indices: Tensor, source: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A sum (product, maximum, …) per index."""
    return _scattered(x, out, indices.numel(), indices.numel(), source, indices)


@formula("aten::index_add", "aten::index_reduce", kind="reduction")
def index_sum(x: Tensor, dim: int, indices: Tensor, source: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A sum (product, maximum, …) per element of the source."""
    return _scattered(x, out, source.numel(), source.numel(), source, indices)


@formula("aten::_unsafe_masked_index_put_accumulate", kind="reduction")
def masked_sum(x: Tensor, mask: Tensor, indices: Any, values: Tensor, *, out: Tensor) -> Cost:
    """A sum per value, masked or not."""
    return _scattered(x, out, values.numel(), values.numel(), values, mask, *indices)


@formula("aten::col2im", kind="reduction")
def fold(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Columns back to an image: every element is added to the one at its place."""
    return Cost(0, x.numel())


@formula("aten::copy_", kind="data")
def copy_into(x: Tensor, source: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Reads the source, not what it overwrites."""
    return Cost(0, 0, _size(source), _size(x))


@formula("aten::embedding_bag", "aten::_embedding_bag", "aten::_embedding_bag_forward_only", kind="embedding")
def embedding_bag(
    table: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """A lookup and a sum (or maximum) per row, a product for sample weights, a division per bag for the mean."""
    rows = indices.numel() * table.shape[-1]
    flops = rows * (1 + (per_sample_weights is not None)) + (out[0].numel() if mode == 1 else 0)
    read = rows * table.element_size() + _size(indices, offsets, per_sample_weights)
    return Cost(0, flops, read, _size(out[0]))
