"""What the gradients of lookups, views and padding cost: sums where places meet, nothing where they do not."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula, free

free(
    "data",
    *(
        "select_backward slice_backward diagonal_backward trace_backward value_selecting_reduction_backward "
        "masked_scatter_backward _pack_padded_sequence_backward _nested_select_backward to_dense_backward "
        "_gather_sparse_backward embedding_sparse_backward"
    ).split(),
)


@formula("aten::embedding_dense_backward", kind="embedding")
def embedding_backward(
    grad: Tensor, indices: Tensor, rows: int, padding: int = -1, by_frequency: bool = False, *, out: Tensor
) -> Cost:
    """Each row of the gradient is added to the row of the table that it names; by frequency, a division as well."""
    read = grad.numel() * grad.element_size() + indices.numel() * indices.element_size()
    return Cost(0, grad.numel() * (1 + by_frequency), read)


@formula("aten::_embedding_bag_dense_backward", kind="embedding")
def embedding_bag_backward(
    grad: Tensor,
    indices: Tensor,
    bags: Tensor,
    sizes: Tensor,
    maxima: Tensor,
    rows: int,
    by_frequency: bool,
    mode: int,
    sample_weights: Tensor | None = None,
    *_: Any,
    out: Tensor,
) -> Cost:
    """The gradient of its bag is added to every row that was looked up (of a maximum, to one per column); sample
    weights take a product, frequencies and means a division each."""
    touched = grad.numel() if mode == 2 else indices.numel() * grad.shape[-1]
    return Cost(0, touched * (1 + by_frequency + (mode == 1) + (sample_weights is not None)))


@formula("aten::_embedding_bag_backward", kind="embedding")
def general_bag_backward(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    bags: Tensor,
    sizes: Tensor,
    maxima: Tensor,
    rows: int,
    by_frequency: bool,
    mode: int,
    sparse: bool,
    sample_weights: Tensor | None = None,
    *_: Any,
    out: Tensor,
) -> Cost:
    """The operator above it, which some devices run whole; a sparse gradient keeps the rows apart and sums none."""
    dense = embedding_bag_backward(
        grad, indices, bags, sizes, maxima, rows, by_frequency, mode, sample_weights, out=out
    )
    return dense._replace(flops=dense.flops - indices.numel() * grad.shape[-1]) if sparse else dense


@formula("aten::_embedding_bag_per_sample_weights_backward", kind="embedding")
def sample_weights_backward(grad: Tensor, table: Tensor, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """The product of a row with the gradient of its bag, summed."""
    return Cost(0, 2 * indices.numel() * table.shape[-1])


@formula("aten::unfold_backward", kind="reduction")
def unfold_backward(grad: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Windows may overlap: every element is added to its place."""
    return Cost(0, grad.numel())


@formula(
    *(f"aten::{kind}_pad{dims}d_backward" for kind in ("reflection", "replication") for dims in (1, 2, 3)),
    kind="reduction",
)
def padding_backward(grad: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Every element, of the border too, is added to the place that it was copied from."""
    return Cost(0, grad.numel())
