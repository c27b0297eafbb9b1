"""What normalisation costs, per element; what is per channel or per row (the root, the folding) is left out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

STATISTICS = 5  # mean 1, difference 1, square and sum 2, product with the reciprocal root 1


def _normalised(x: Tensor, weight: Any, bias: Any) -> Cost:
    """Statistics, the product with them, a product for the weight and a sum for the bias."""
    return Cost(0, x.numel() * (STATISTICS + (weight is not None) + (bias is not None)))


def _batch_statistics(x: Tensor, weight: Any, bias: Any, uses_batch: bool) -> Cost:
    """Stored statistics fold with the affine pair into one product and one addition (Ioffe and Szegedy 2015)."""
    return _normalised(x, weight, bias) if uses_batch else Cost(0, 2 * x.numel())


@formula(
    "aten::batch_norm",
    "aten::native_batch_norm",
    "aten::_batch_norm_impl_index",
    "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
    kind="norm",
)
def batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any, out: Any, **__: Any
) -> Cost:
    """With stored statistics 2 per element; with those of the batch 5, and 2 for the affine pair."""
    return _batch_statistics(x, weight, bias, training)


@formula("aten::_native_batch_norm_legit", "aten::_native_batch_norm_legit_functional", kind="norm")
def legit_batch_norm(x: Tensor, weight: Any, bias: Any, *rest: Any, out: Any, **__: Any) -> Cost:
    """The same with the stored statistics, or (`no_stats`) without them: `training` is the first bool."""
    return _batch_statistics(x, weight, bias, next((item for item in rest if isinstance(item, bool)), True))


@formula("aten::_native_batch_norm_legit_no_training", "aten::_batch_norm_no_update", kind="norm")
def stored_batch_norm(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """With stored statistics only."""
    return Cost(0, 2 * x.numel())


@formula("aten::_batch_norm_with_update", "aten::_batch_norm_with_update_functional", kind="norm")
def updating_batch_norm(x: Tensor, weight: Any, bias: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """With those of the batch only."""
    return _normalised(x, weight, bias)


@formula("aten::batch_norm_stats", kind="norm")
def batch_statistics(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """Mean and variance alone: 4 per element (synchronised batch norm)."""
    return Cost(0, 4 * x.numel())


@formula("aten::batch_norm_elemt", kind="norm")
def batch_normalise(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """Given statistics, folded with the affine pair: 2 per element."""
    return Cost(0, 2 * x.numel())


@formula("aten::instance_norm", kind="norm")
def instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input_stats: bool, *_: Any, out: Any, **__: Any
) -> Cost:
    """Statistics of every sample and channel, or stored ones."""
    return _batch_statistics(x, weight, bias, use_input_stats)


@formula("aten::layer_norm", "aten::native_layer_norm", "aten::group_norm", kind="norm")
def layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, *_: Any, out: Any, **__: Any) -> Cost:
    """5 per element, 1 for a weight and 1 for a bias (Ba et al. 2016; by groups, Wu and He 2018)."""
    return _normalised(x, weight, bias)


@formula("aten::native_group_norm", kind="norm")
def native_group_norm(x: Tensor, weight: Any, bias: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """The kernel below."""
    return _normalised(x, weight, bias)


@formula("aten::rms_norm", "aten::_fused_rms_norm", kind="norm")
def rms_norm(x: Tensor, shape: Any, weight: Any = None, *_: Any, out: Any, **__: Any) -> Cost:
    """Square, sum and product: 3 per element, and 1 for the weight (Zhang and Sennrich 2019)."""
    return Cost(0, x.numel() * (3 + (weight is not None)))


@formula("aten::_weight_norm_interface", "aten::_weight_norm", kind="norm")
def weight_norm(v: Tensor, g: Tensor, *_: Any, out: Any) -> Cost:
    """w = v g / |v|: square and sum per element and a product (Salimans and Kingma 2016)."""
    return Cost(0, 3 * v.numel())
