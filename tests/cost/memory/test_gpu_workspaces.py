"""The rule for memory inside a GPU's kernels, against what an H100 took (torch 2.11, cuDNN, batches of 16)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modelprobe.cost.memory.gpu_workspaces import workspace_of_gpu

MEASURED = [
    # channels, side, out, kernel, stride, groups, dtype, forward, backward
    (64, 112, 64, 3, 1, 1, torch.float32, 102_908_416, 104_973_312),
    (256, 56, 256, 3, 1, 1, torch.float32, 105_120_256, 112_198_656),
    (128, 28, 128, 3, 1, 1, torch.float32, 13_435_392, 17_564_672),
    (32, 149, 32, 3, 1, 1, torch.float32, 89_760_256, 97_954_304),
    (128, 56, 128, 3, 2, 1, torch.float32, 32_702_976, 36_832_256),
    (256, 28, 64, 1, 1, 1, torch.float32, 0, 1_048_576),
    (512, 14, 192, 1, 1, 1, torch.float32, 0, 6_291_456),
    (64, 112, 64, 1, 1, 1, torch.float32, 0, 104_366_592),
    (768, 7, 768, 1, 1, 1, torch.float32, 0, 4_817_408),
    (3, 224, 64, 7, 2, 1, torch.float32, 61_051_904, 67_186_176),
    (3, 224, 32, 3, 2, 1, torch.float32, 0, 0),
    (3, 224, 16, 3, 2, 1, torch.bfloat16, 0, 20_454_400),
    (64, 56, 64, 3, 1, 64, torch.float32, 0, 0),
]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: "x".join(map(str, row[:6])))
def test_a_convolution(row: Any) -> None:
    channels, side, out, kernel, stride, groups, dtype, forward, backward = row
    image = torch.empty(16, channels, side, side, device="meta", dtype=dtype)
    weight = torch.empty(out, channels // groups, kernel, kernel, device="meta", dtype=dtype)
    rest: Any = (None, [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], groups)
    aten: Any = torch.ops.aten
    result = aten.convolution(image, weight, *rest)
    room = max(0.1 * (image.nbytes + weight.nbytes + result.nbytes), 4 * 2**20)
    assert workspace_of_gpu("aten.convolution", (image, weight, *rest), result) == pytest.approx(forward, abs=room)
    given = (result, image, weight, *rest, [True, True, False])
    assert workspace_of_gpu("aten.convolution_backward", given, None) == pytest.approx(backward, abs=room)


def test_channels_last_and_double_precision_are_not_copied() -> None:
    aten: Any = torch.ops.aten
    rest: Any = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    for dtype, form in ((torch.float32, torch.channels_last), (torch.float64, torch.contiguous_format)):
        image = torch.empty(8, 32, 16, 16, device="meta", dtype=dtype).to(memory_format=form)
        weight = torch.empty(32, 32, 3, 3, device="meta", dtype=dtype).to(memory_format=form)
        result = aten.convolution(image, weight, *rest)
        assert workspace_of_gpu("aten.convolution", (image, weight, *rest), result) == 0


@pytest.mark.parametrize(("rows", "columns", "nbytes"), [(3152, 384, 9_830_400), (3136, 512, 12_845_056), (16, 384, 0)])
def test_sums_of_columns(rows: int, columns: int, nbytes: int) -> None:
    source = torch.empty(rows, columns, device="meta")
    assert workspace_of_gpu("aten.sum.dim_IntList", (source, [0]), source.sum(0)) == nbytes
    assert workspace_of_gpu("aten.sum.dim_IntList", (source, [1]), source.sum(1)) == 0
    square = torch.empty(4096, 4096, device="meta")
    assert workspace_of_gpu("aten.sum.dim_IntList", (square, [1]), square.sum(1)) == 0
