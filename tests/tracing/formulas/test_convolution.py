"""Convolutions against naive loops: one MAC per output position, tap and pair of channels that meet.

Taps that fall into the padding count: a kernel multiplies them like any others, and so does every published figure.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import deform_conv2d

from tests.tracing.by_hand import both, flops, macs, only, zeros


def positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> list[int]:
    """Where the first tap can stand so that the last one is still inside the padded row."""
    row = range(-padding, size + padding)
    return [at for at in row[::stride] if at + dilation * (kernel - 1) in row]


def count_products(x: torch.Tensor, out_channels: int, groups: int, sizes: list[tuple[int, int, int, int]]) -> int:
    """Products of a convolution, one by one. `sizes` are (kernel, stride, padding, dilation) along each axis."""
    batch, channels, *space = x.shape
    places = [positions(size, *how) for size, how in zip(space, sizes, strict=True)]
    taps = [range(kernel) for kernel, *_ in sizes]
    count = 0
    for _position in itertools.product(range(batch), *places):
        for out_channel in range(out_channels):
            group = out_channel // (out_channels // groups)
            for channel in range(channels):
                if channel // (channels // groups) == group:
                    count += sum(1 for _tap in itertools.product(*taps))
    return count


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[torch.Tensor, int, int, list[tuple[int, int, int, int]]]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2]))
    channels, out_channels = (groups * draw(st.integers(1, 2)) for _ in range(2))
    sizes, space = [], []
    for _ in range(dims):
        kernel, stride, padding, dilation = (
            draw(st.integers(low, high)) for low, high in ((1, 3), (1, 3), (0, 2), (1, 2))
        )
        smallest = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
        space.append(draw(st.integers(smallest, smallest + 3)))
        sizes.append((kernel, stride, padding, dilation))
    return zeros(draw(st.integers(1, 2)), channels, *space), out_channels, groups, sizes


@settings(max_examples=30, deadline=None)
@given(convolutions())
def test_any_convolution(case: tuple[torch.Tensor, int, int, list[tuple[int, int, int, int]]]) -> None:
    x, out_channels, groups, sizes = case
    kernel, stride, padding, dilation = zip(*sizes, strict=True)
    cls = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sizes) - 1]
    net = cls(x.shape[1], out_channels, kernel, stride, padding, dilation, groups)  # type: ignore[arg-type]
    expected = count_products(x, out_channels, groups, sizes)
    assert macs(net, x) == expected


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_same_padding_in_every_mode(mode: str) -> None:
    # 6 x 25 outputs of 4 x 3 x 3 products; padding moves data and computes nothing
    found = both(nn.Conv2d(4, 6, 3, padding="same", padding_mode=mode, bias=False), zeros(2, 4, 5, 5))
    assert found.macs == 2 * 6 * 25 * 36
    assert found.flops == 2 * found.macs


def test_depthwise_and_unbatched() -> None:
    # each of 8 filters sees one channel: 8 x 3 x 3 outputs x 9 taps
    assert macs(nn.Conv2d(4, 8, 3, groups=4), zeros(4, 5, 5)) == 8 * 9 * 9
    assert flops(nn.Conv2d(4, 8, 3, groups=4), zeros(4, 5, 5)) == 8 * 9  # the bias


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed(dims: int, groups: int) -> None:
    cls = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    net = cls(4, 6, 3, stride=2, padding=1, output_padding=1, groups=groups)
    # every one of 4 x 5^d inputs is multiplied with a filter of 6/groups x 3^d, and scattered; 10^d outputs get a bias
    found = both(net, zeros(2, 4, *[5] * dims))
    assert found.macs == 2 * 4 * 5**dims * (6 // groups) * 3**dims
    assert found.flops - 2 * found.macs == 2 * 6 * 10**dims


def test_transposed_is_the_mirror_of_the_plain_one() -> None:
    # The transposed operator is the gradient of the plain one: the same products, from the other side.
    x = zeros(1, 4, 9, 9)
    y = F.conv2d(x, zeros(6, 4, 3, 3), stride=2)
    plain = macs(lambda a: F.conv2d(a, a.new_zeros(6, 4, 3, 3), stride=2), x)
    assert plain == macs(lambda a: F.conv_transpose2d(a, a.new_zeros(6, 4, 3, 3), stride=2), y)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable(masked: bool, groups: int) -> None:
    x, offset, weight = zeros(2, 4, 6, 6), zeros(2, 18, 4, 4), zeros(8, 4 // groups, 3, 3)
    mask = (zeros(2, 9, 4, 4),) if masked else ()
    found = both(lambda a, o, w, *m: deform_conv2d(a, o, w, mask=m[0] if m else None), x, offset, weight, *mask)
    call = only(found, "torchvision.deform_conv2d")
    assert call.macs == 2 * 8 * 16 * (4 // groups) * 9
    # 9 taps of 4 channels at 2 x 16 positions: 4 products and 3 sums each, one product more for a mask;
    # 9 taps at 2 x 16 positions: 2 sums and 4 products for the place; 2 x 8 x 16 sums for the bias, which is zeros
    assert call.flops == 2 * 16 * 9 * 4 * (7 + masked) + 2 * 16 * 9 * 6 + 2 * 8 * 16


def test_script_calls_the_general_operator() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, groups=1), nn.ConvTranspose2d(4, 2, 2)).eval()
    x = zeros(1, 3, 9, 9)
    expected = 4 * 16 * 27 + 4 * 16 * 2 * 4
    assert macs(net, x) == expected
    script = torch.jit.trace(net, x)
    assert macs(script, x) == expected
    assert {op.name for op in both(script, x).ops} == {"aten._convolution"}


def test_time_batch_channel() -> None:
    # 5 - 3 + 1 steps x 2 x 6 outputs of 3 x 4 products
    assert macs(lambda x, w, b: torch.conv_tbc(x, w, b), zeros(5, 2, 4), zeros(3, 4, 6), zeros(6)) == 3 * 2 * 6 * 12


def test_nothing_in_nothing_out() -> None:
    assert macs(nn.Conv2d(3, 4, 3), zeros(0, 3, 8, 8)) == 0
    assert math.prod((0, 4, 6, 6)) == 0
