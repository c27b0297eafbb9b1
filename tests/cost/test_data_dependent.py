"""Costs that depend on the data: the heads of detectors, experts that a router chooses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cost.data_dependent import CostBounds
from tests.command_line import SAMPLES, CommandLine
from tests.samples import models


class Backbone(nn.Sequential):
    """Three channels to eight on a sixteenth of the side."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 16, stride=16))


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    return MaskRCNN(
        Backbone(),
        num_classes=3,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        rpn_post_nms_top_n_test=20,
        box_detections_per_img=5,
    )


# 8 channels of 7 x 7 to 1024, to 1024, to 3 classes and 3 x 4 coordinates
BOX = 8 * 49 * 1024 + 1024 * 1024 + 1024 * (3 + 12)
# four convolutions on 14 x 14, doubled to 28 x 28 by a 2 x 2 transposed one, 3 classes
MASK = 196 * 9 * (8 * 256 + 3 * 256 * 256) + 784 * (256 * 256 + 256 * 3)


@pytest.mark.zoo
def test_heads_of_a_detector(detector: nn.Module) -> None:
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    found = modelprobe.count_flops(detector, images)
    box, mask = found.ranges
    assert (box.stage, box.unit, box.most_items, box.most_macs) == ("box head", "proposals", 40, 40 * BOX)
    assert (mask.stage, mask.unit, mask.most_items, mask.most_macs) == ("mask head", "detections", 10, 10 * MASK)
    assert box.macs == box.items * BOX
    assert 0 < box.items <= 40
    assert found.least_macs == found.macs - box.macs - mask.macs
    assert found.least_macs <= found.macs <= found.most_macs
    assert found.to_dict()["most_macs"] == found.least_macs + 40 * BOX + 10 * MASK


def test_a_head_that_had_nothing_to_do_is_recorded_for_itself(detector: nn.Module) -> None:
    detector.roi_heads.score_thresh = 1.1  # nothing is ever detected
    try:
        box, mask = modelprobe.count_flops(detector, [torch.rand(3, 64, 64)]).ranges
    finally:
        detector.roi_heads.score_thresh = 0.05
    assert (mask.items, mask.macs, mask.most_macs) == (0, 0, 5 * MASK)
    assert box.items > 0


def test_experts() -> None:
    found = modelprobe.count_flops(models.TinyExperts(), torch.randn(2, 5, 8))
    # 10 tokens; an expert is 2 x 8 x 32 MACs a token and 8 x 32 + 32 + 32 x 8 + 8 parameters
    held = 4 * (8 * 32 + 32 + 32 * 8 + 8)
    assert found.ranges == (CostBounds("experts", "tokens x experts", 20, 40, 20 * 512, 40 * 512, held, held // 2),)
    # router 10 x 8 x 4, head 10 x 8 x 3
    assert found.macs == 20 * 512 + 320 + 240
    assert (found.least_macs, found.most_macs) == (560, 40 * 512 + 560)
    assert found.active_parameters == found.parameters - held // 2


def test_lists_of_blocks_are_no_experts() -> None:
    blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
    blocks.forward = lambda x: blocks[3](blocks[2](blocks[1](blocks[0](x))))
    assert modelprobe.count_flops(blocks, torch.randn(3, 4)).ranges == ()


def test_what_a_person_reads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, golden) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = CommandLine(capsys)("flops", f"{SAMPLES}:TinyExperts")
    assert answer.code == 0
    golden("flops.TinyExperts.80.txt", answer.out)
