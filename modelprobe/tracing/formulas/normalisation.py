"""What normalisation costs, per element; what is per channel or per row (the root, the folding) is left out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

STATISTICS = 5  # mean 1, difference 1, square and sum 2, product with the reciprocal root 1
AFFINE = 2


def _batch(x: Tensor, weight: Tensor | None, uses_batch: bool) -> Cost:
    """Stored statistics fold with the affine pair into one product and one addition (Ioffe and Szegedy 2015)."""
    if not uses_batch:
        return Cost(0, 2 * x.numel())
    return Cost(0, x.numel() * (STATISTICS + (AFFINE if weight is not None else 0)))


@formula("aten::batch_norm", "aten::native_batch_norm", "aten::_batch_norm_impl_index", kind="norm")
def batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any, out: Any, **__: Any
) -> Cost:
    """With stored statistics 2 per element; with those of the batch 5, and 2 for the affine pair."""
    return _batch(x, weight, training)


@formula("aten::cudnn_batch_norm", "aten::miopen_batch_norm", "aten::_native_batch_norm_legit", kind="norm")
def vendor_batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any, out: Any, **__: Any
) -> Cost:
    """The kernels below."""
    return _batch(x, weight, training)


@formula("aten::_native_batch_norm_legit_no_training", "aten::_batch_norm_no_update", kind="norm")
def stored_batch_norm(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """With stored statistics only."""
    return Cost(0, 2 * x.numel())


@formula("aten::instance_norm", kind="norm")
def instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input_stats: bool, *_: Any, out: Any, **__: Any
) -> Cost:
    """Statistics of every sample and channel, or stored ones."""
    return _batch(x, weight, use_input_stats)


@formula("aten::layer_norm", "aten::native_layer_norm", kind="norm")
def layer_norm(x: Tensor, shape: Any, weight: Any = None, *_: Any, out: Any, **__: Any) -> Cost:
    """5 per element and 2 for the affine pair (Ba et al. 2016)."""
    return Cost(0, x.numel() * (STATISTICS + (AFFINE if weight is not None else 0)))


@formula("aten::group_norm", kind="norm")
def group_norm(x: Tensor, groups: int, weight: Any = None, *_: Any, out: Any, **__: Any) -> Cost:
    """5 per element and 2 for the affine pair (Wu and He 2018)."""
    return Cost(0, x.numel() * (STATISTICS + (AFFINE if weight is not None else 0)))


@formula("aten::native_group_norm", kind="norm")
def native_group_norm(x: Tensor, weight: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """The kernel below."""
    return Cost(0, x.numel() * (STATISTICS + (AFFINE if weight is not None else 0)))


@formula("aten::rms_norm", "aten::_fused_rms_norm", kind="norm")
def rms_norm(x: Tensor, shape: Any, weight: Any = None, *_: Any, out: Any, **__: Any) -> Cost:
    """Square, sum and product: 3 per element, and 1 for the weight (Zhang and Sennrich 2019)."""
    return Cost(0, x.numel() * (3 + (weight is not None)))
