"""Pooling, interpolation and region operators, against loops over the elements that each output touches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import ops

from tests.tracing.by_hand import both, flops, macs, only, really, zeros


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        # a maximum of k takes k - 1 comparisons
        (nn.MaxPool1d(3, 2), (1, 2, 9), 2 * 4 * 2),
        (nn.MaxPool2d(3, 2), (1, 2, 8, 8), 2 * 3 * 3 * 8),
        (nn.MaxPool2d(3, 2, ceil_mode=True), (1, 2, 8, 8), 2 * 4 * 4 * 8),
        (nn.MaxPool2d(3, 2, padding=1, dilation=2), (1, 2, 8, 8), 2 * 3 * 3 * 8),
        (nn.MaxPool3d((1, 2, 3)), (1, 2, 4, 4, 6), 2 * 4 * 2 * 2 * 5),
        (nn.FractionalMaxPool2d(2, 3), (1, 2, 8, 8), 2 * 9 * 3),
        # a mean of k takes k - 1 sums and a division
        (nn.AvgPool1d(3), (1, 2, 9), 2 * 3 * 3),
        (nn.AvgPool2d((2, 3)), (1, 2, 8, 9), 2 * 4 * 3 * 6),
        (nn.AvgPool3d(2), (1, 2, 4, 4, 4), 2 * 8 * 8),
    ],
    ids=str,
)
def test_windows(net: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert flops(net, zeros(*shape)) == expected


def test_indices_cost_nothing_more() -> None:
    # 16 maxima of 4 elements each; putting them back moves data
    found = flops(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), zeros(1, 1, 8, 8))
    assert found == 16 * 3


def windows(size: int, count: int) -> list[int]:
    """Elements in each adaptive window, found by asking torch which inputs reach which output."""
    probe = torch.eye(size, dtype=torch.float64).reshape(size, 1, size)
    return [int((F.adaptive_avg_pool1d(probe, count)[:, 0, i] > 0).sum()) for i in range(count)]


@pytest.mark.parametrize(("size", "count"), [((8, 8), (3, 5)), ((7, 5), (7, 2)), ((4, 4), (1, 1)), ((3, 3), (5, 7))])
def test_adaptive_windows_that_overlap(size: tuple[int, int], count: tuple[int, int]) -> None:
    touched = sum(windows(size[0], count[0])) * sum(windows(size[1], count[1]))
    x = zeros(1, 2, *size)
    assert flops(nn.AdaptiveAvgPool2d(count), x) == 2 * touched
    assert flops(nn.AdaptiveMaxPool2d(count), x) == 2 * (touched - math.prod(count))


def test_adaptive_in_other_dimensions() -> None:
    assert flops(nn.AdaptiveAvgPool1d(4), zeros(1, 2, 9)) == 2 * sum(windows(9, 4))
    assert flops(nn.AdaptiveAvgPool3d(2), zeros(1, 1, 5, 5, 5)) == sum(windows(5, 2)) ** 3


def test_power_average() -> None:
    # 8 squares; mean of each 4: 4; sign, modulus, ReLU, product, product with 4, root of each mean
    names = [op.name for op in both(nn.LPPool1d(2, 4), zeros(1, 1, 8)).ops]
    assert names.count("aten.avg_pool1d") == 1
    assert flops(nn.LPPool1d(2, 4), zeros(1, 1, 8)) >= 8 + 2 * 4 + 2 * 2


@pytest.mark.parametrize(
    ("mode", "dims", "each"),
    [
        ("nearest", 1, 0),
        ("nearest", 3, 0),
        ("nearest-exact", 2, 0),
        ("linear", 1, 2 + 1),  # 2 products and a sum
        ("bilinear", 2, 4 + 3),
        ("trilinear", 3, 8 + 7),
        ("bicubic", 2, 5 * (4 + 3)),  # four rows and a column of 4 taps
    ],
)
def test_interpolation(mode: str, dims: int, each: int) -> None:
    x = zeros(1, 2, *[4] * dims)
    assert flops(lambda x: F.interpolate(x, scale_factor=1.5, mode=mode), x) == 2 * 6**dims * each
    assert flops(lambda x: F.interpolate(x, size=[3] * dims, mode=mode), x) == 2 * 3**dims * each


def taps(size: int, count: int, mode: str) -> int:
    """Inputs that reach the outputs along one axis of the filtered interpolation, asked from torch."""
    found = 0
    for i in range(size):
        probe = torch.zeros(1, 1, size, size, dtype=torch.float64)
        probe[..., i] = 1
        found += int((F.interpolate(probe, size=(size, count), mode=mode, antialias=True)[0, 0, 0] != 0).sum())
    return found


@pytest.mark.parametrize("size", [3, 4, 12])
def test_antialiased(size: int) -> None:
    # rows first: k products and k - 1 sums per output of a pass, with the taps that the edges leave; a triangle's
    # outermost taps may weigh nothing, so torch's non-zero ones are at most those
    x = zeros(1, 1, 8, 8)
    along = taps(8, size, "bilinear")
    found = flops(lambda x: F.interpolate(x, size=(size, size), mode="bilinear", antialias=True), x)
    least = 8 * (2 * along - size) + size * (2 * along - size)
    assert least <= found <= least * 1.7


def test_antialiased_by_hand() -> None:
    # 8 -> 4, a triangle of radius 2 around 1, 3, 5, 7: taps 0-2, 1-4, 3-6, 5-7, with 3 + 4 + 4 + 3 = 14 taps a row
    found = flops(lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True), zeros(1, 1, 8, 8))
    assert found == 8 * (14 + 14 - 4) + 4 * (14 + 14 - 4)


@pytest.mark.parametrize(("mode", "each", "weights"), [("bilinear", 7, 4), ("nearest", 0, 0), ("bicubic", 35, 4)])
def test_grid_sample(mode: str, each: int, weights: int) -> None:
    # 16 points of 3 channels; two coordinates of 3 operations to pixels, and the weights, shared by the channels
    found = flops(
        lambda x, g: F.grid_sample(x, g, mode=mode, align_corners=False), zeros(1, 3, 5, 5), zeros(1, 4, 4, 2)
    )
    assert found == 16 * (3 * each + 2 * 3 + weights)


def test_affine_grid() -> None:
    # every coordinate is a row of theta times (x, y, 1)
    assert macs(lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), zeros(2, 2, 3)) == 2 * 20 * 2 * 3
    assert macs(lambda t: F.affine_grid(t, [2, 3, 4, 5, 6], align_corners=False), zeros(2, 3, 4)) == 2 * 120 * 3 * 4


@pytest.mark.parametrize(
    "move",
    [
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: torch.channel_shuffle(x, 2),
        lambda x: F.unfold(x, 3),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: x.roll(1).repeat(1, 2, 1, 1),
    ],
)
def test_moves_are_free(move: Callable[[Tensor], Tensor]) -> None:
    found = both(move, zeros(1, 4, 4, 4))
    assert found.flops == 0
    assert sum(op.bytes_written for op in found.ops) >= 4 * 64


def test_fold_sums_what_overlaps() -> None:
    assert flops(lambda x: F.fold(x, (4, 4), 3), zeros(1, 18, 4)) == 18 * 4


def test_regions() -> None:
    x, rois = zeros(1, 4, 8, 8), torch.tensor([[0, 0, 0, 4, 4.0], [0, 1, 1, 5, 5]])
    # 2 regions x 4 channels x 2 x 2 bins of 3 x 3 samples: 7 to interpolate, 1 to sum each
    assert flops(lambda x, r: ops.roi_align(x, r, 2, sampling_ratio=3), x, rois) == 2 * 4 * 4 * 9 * 8
    # at most 4 x 4 cells in each of the bins
    assert flops(lambda x, r: ops.roi_pool(x, r, 2), x, rois) == 2 * 4 * 4 * 16
    # one channel per bin
    assert flops(lambda x, r: ops.ps_roi_align(x, r, 2, sampling_ratio=1), x, rois) == 2 * 4 * 8
    assert flops(lambda x, r: ops.ps_roi_pool(x, r, 2), x, rois) == 2 * 4 * 16


def test_nms_is_bounded_by_all_pairs() -> None:
    found = really(lambda b, s: ops.nms(b, s, 0.5), torch.rand(5, 4), torch.rand(5))
    # 10 pairs of 12 operations, and 5 x ceil(log2 5) comparisons to sort
    assert only(found, "torchvision.nms").flops == 10 * 12 + 5 * 3
