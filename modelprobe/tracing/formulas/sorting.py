"""What sorting and searching cost, in comparisons."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


def _steps(length: int) -> int:
    """ceil(log2 length), at least 1: the comparisons that place one element among `length`."""
    return max(1, (length - 1).bit_length()) if length else 0


def _sorted(x: Tensor, dim: int) -> Cost:
    return Cost(0, x.numel() * (_steps(x.shape[dim]) if x.dim() else 0))


@formula("aten::sort", "aten::argsort", kind="sort")
def comparison_sort(x: Tensor, dim: int = -1, *_: Any, out: Any, **named: Any) -> Cost:
    """n ceil(log2 n) comparisons per sorted row."""
    # sort.stable takes everything but the tensor by name.
    return _sorted(x, named.get("dim", dim))


@formula("aten::topk", "aten::kthvalue", kind="sort")
def partial_sort(x: Tensor, k: int, dim: int = -1, *_: Any, out: Any, **__: Any) -> Cost:
    """As a whole sort: what a kernel saves by not finishing is its own affair."""
    return _sorted(x, dim)


@formula("aten::msort", kind="sort")
def sort_of_rows(x: Tensor, *, out: Tensor) -> Cost:
    """A sort along the first dimension."""
    return _sorted(x, 0)


@formula("aten::mode", kind="sort")
def mode(x: Tensor, dim: int = -1, *_: Any, out: Any, **__: Any) -> Cost:
    """A sort, and a comparison of neighbours."""
    return _sorted(x, dim)._replace(flops=_sorted(x, dim).flops + x.numel())


@formula(
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    kind="sort",
)
def unique(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """A sort of all elements."""
    return Cost(0, x.numel() * _steps(x.numel()))


@formula("aten::searchsorted", kind="sort")
def search(bounds: Tensor, x: Any, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A binary search for every element."""
    return Cost(0, out.numel() * _steps(bounds.shape[-1] if bounds.dim() else 0))


@formula("aten::bucketize", kind="sort")
def bucketize(x: Any, bounds: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A binary search for every element."""
    return Cost(0, out.numel() * _steps(bounds.shape[-1]))


@formula("aten::isin", kind="sort")
def membership(x: Any, tests: Any, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A binary search among the sorted test elements."""
    return Cost(0, out.numel() * _steps(tests.numel() if isinstance(tests, Tensor) else 1))


@formula("aten::histogram", "aten::_histogramdd_from_bin_cts", "aten::_histogramdd_from_bin_tensors", kind="sort")
def histogram(x: Tensor, bins: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """The bin of every value: by a binary search among edges, or by a difference, a product and a rounding where bins
    are equal; then a sum."""
    edges = bins if isinstance(bins, Tensor) else bins[0] if isinstance(bins, (list, tuple)) and bins else None
    steps = _steps(edges.numel()) if isinstance(edges, Tensor) else 3
    return Cost(0, x.numel() * (steps + 1))


@formula("aten::_histogramdd_bin_edges", "aten::hash_tensor", kind="reduction")
def looked_through(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """One operation per element: a comparison for the least and the greatest, or an exclusive or."""
    return Cost(0, x.numel())
