"""What the gradients of torchvision's region pooling cost."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula


@formula("torchvision::_roi_align_backward", kind="pooling")
def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    scale: float,
    height: int,
    width: int,
    batch: int,
    channels: int,
    rows: int,
    columns: int,
    sampling_ratio: int,
    *_: Any,
    out: Tensor,
) -> Cost:
    """A division per bin; each of its samples gives 4 products with its weights and 4 sums (He et al. 2017).

    An adaptive number of samples is bounded as in the forward.
    """
    return Cost(0, grad.numel() * (1 + 8 * _samples(sampling_ratio, rows, columns, height, width)))


@formula("torchvision::_ps_roi_align_backward", kind="pooling")
def ps_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    mapping: Tensor,
    scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    batch: int,
    channels: int,
    rows: int,
    columns: int,
    *,
    out: Tensor,
) -> Cost:
    """The same with a channel group per bin."""
    return Cost(0, grad.numel() * (1 + 8 * _samples(sampling_ratio, rows, columns, height, width)))


def _samples(ratio: int, rows: int, columns: int, height: int, width: int) -> int:
    return ratio**2 if ratio > 0 else math.ceil(rows / height) * math.ceil(columns / width)


@formula("torchvision::_roi_pool_backward", kind="pooling")
def roi_pool_backward(grad: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A sum per bin, at its maximum."""
    return Cost(0, grad.numel())


@formula("torchvision::_ps_roi_pool_backward", kind="pooling")
def ps_roi_pool_backward(
    grad: Tensor,
    rois: Tensor,
    mapping: Tensor,
    scale: float,
    height: int,
    width: int,
    batch: int,
    channels: int,
    rows: int,
    columns: int,
    *,
    out: Tensor,
) -> Cost:
    """A division per bin, and a sum for each of its cells, at most the feature map divided by the bins."""
    return Cost(0, grad.numel() * (1 + math.ceil(rows / height) * math.ceil(columns / width)))
