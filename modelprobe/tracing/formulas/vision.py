"""What torchvision's own operators cost: region pooling and non-maximum suppression."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

PAIR = 12  # four extremes, two differences clamped at 0, their product, union of areas, division, comparison


@formula("torchvision::roi_align", "torchvision::qroi_align", kind="pooling")
def roi_align(
    x: Tensor,
    rois: Tensor,
    scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool = False,
    *,
    out: Tensor,
) -> Cost:
    """Each bin averages sampling_ratio^2 bilinear samples of 7 FLOPs (He et al. 2017).

    An adaptive ratio (not above 0) is ceil(region / bins), which depends on the regions; it is bounded by the
    feature map: no region has more samples than the map has cells.
    """
    if sampling_ratio > 0:
        samples = sampling_ratio**2
    else:
        samples = math.ceil(x.shape[-2] / height) * math.ceil(x.shape[-1] / width)
    return Cost(0, out.numel() * samples * 8, None, None)


@formula("torchvision::roi_pool", "torchvision::ps_roi_pool", kind="pooling")
def roi_pool(x: Tensor, rois: Tensor, scale: float, height: int, width: int, *, out: Any) -> Cost:
    """A maximum (or mean) over the cells of each bin, at most the feature map divided by the bins."""
    values = out[0]
    return Cost(0, values.numel() * math.ceil(x.shape[-2] / height) * math.ceil(x.shape[-1] / width))


@formula("torchvision::ps_roi_align", kind="pooling")
def ps_roi_align(
    x: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling_ratio: int, *, out: Any
) -> Cost:
    """roi_align of one channel group per bin."""
    return roi_align(x, rois, scale, height, width, sampling_ratio, out=out[0])


@formula("torchvision::nms", "torchvision::qnms", kind="sort")
def nms(boxes: Tensor, scores: Tensor, threshold: float, *, out: Tensor) -> Cost:
    """A sort, and intersection over union of every pair at worst (greedy suppression skips what is gone)."""
    count = boxes.shape[0]
    return Cost(0, PAIR * count * (count - 1) // 2 + count * max(1, math.ceil(math.log2(max(count, 2)))))
