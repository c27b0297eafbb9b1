"""Deletion and insertion: curves by hand, and whether they tell a right map from a shuffled one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import modelprobe
from modelprobe.errors import BadInput
from modelprobe.vision.cam.judge import POINTS, Judgement, judge_map
from tests.vision.cam.test_pointing import digits, trained


class Brightness(nn.Module):
    """The probability of class 1 is the share of ones in the left half."""

    def forward(self, x: Tensor) -> Tensor:
        share = x[..., :4].mean((1, 2, 3))[:, None]
        return torch.cat([1 - share, share], 1)


def test_curves_by_hand() -> None:
    image, left = torch.ones(1, 8, 8), torch.zeros(8, 8)
    left[:, :4] = 1.0
    good, bad = judge_map(Brightness(), image, left, 1), judge_map(Brightness(), image, 1 - left, 1)
    # the left half goes in the first 16 of 32 steps, one sixteenth of it in each
    assert good.deleted == pytest.approx([max(0.0, 1 - step / 16) for step in range(POINTS + 1)])
    assert bad.deleted == pytest.approx([1 - max(0, step - 16) / 16 for step in range(POINTS + 1)])
    assert good.deletion == pytest.approx(0.25)
    assert bad.deletion == pytest.approx(0.75)
    assert good.inserted == pytest.approx([min(1.0, step / 16) for step in range(POINTS + 1)])
    assert good.insertion == pytest.approx(0.75)
    assert Judgement((1.0, 0.5, 0.0), (0.0, 1.0)).insertion == 0.5
    with pytest.raises(BadInput, match="the map has 4x4 values, and the image 8x8"):
        judge_map(Brightness(), image, left[:4, :4], 1)


def told_apart(name: str, count: int) -> tuple[float, Counter[int]]:
    """The share of canvases on which the map of a trained network is judged better than the same map shuffled.

    Beside it the predicted digits of the others.
    """
    model, generator, missed = trained(name), torch.Generator().manual_seed(3), Counter[int]()
    test = digits.canvases(count, torch.Generator().manual_seed(2026), held_out=True)
    for image in test.pictures:
        found = modelprobe.cam(model, image)
        blocks = found.map.reshape(8, 8, 8, 8).permute(0, 2, 1, 3).reshape(64, 8, 8)
        mixed = blocks[torch.randperm(64, generator=generator)].reshape(8, 8, 8, 8).permute(0, 2, 1, 3).reshape(64, 64)
        own, other = (judge_map(model, image, one, found.target) for one in (found.map, mixed))
        if own.insertion - own.deletion <= other.insertion - other.deletion:
            missed[found.target] += 1
    return 1 - sum(missed.values()) / count, missed


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["DigitCNN", "DigitResNet", "DigitViT"])
def test_right_maps_are_told_from_shuffled_ones(name: str) -> None:
    assert told_apart(name, 24)[0] >= 0.75  # at chance: 1 in 50


FIGURES = {"DigitCNN": 0.95, "DigitResNet": 0.95, "DigitViT": 0.92}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_the_share_of_200_canvases(name: str) -> None:
    found, missed = told_apart(name, 200)
    print(
        f"\n{name}: --judge tells the right map from the shuffled one on {found:.1%} of 200 canvases; "
        f"not on those taken for {dict(missed)}"
    )
    assert found >= FIGURES[name]
