"""Networks with the names and shapes of another one that compute something else are named beside it."""

from __future__ import annotations

import pytest
import torch

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.model.target import resolve
from modelprobe.model.weights.load import fit
from modelprobe.model.weights.look_alikes import look_alikes


@pytest.mark.zoo
def test_networks_of_other_layers_or_costs():
    assert "timm:tf_efficientnet_b0" in look_alikes(resolve("timm:efficientnet_b0"))
    found = look_alikes(resolve("resnet50"))
    assert {"timm:resnetaa50", "timm:resnetblur50"} <= set(found)
    assert "timm:resnet50" not in found  # the same network
    assert look_alikes(resolve("timm:vit_base_patch16_224")) == ()  # DeiT is the same


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "told"), [("x.pth", True), ("tf_efficientnet_b0.pth", True), ("efficientnet_b0.pth", False)]
)
def test_a_file_that_does_not_name_its_network(name, told, tmp_path):
    target = resolve("timm:efficientnet_b0", ["num_classes=2"])
    torch.save(target.build("cpu").module.state_dict(), tmp_path / name)
    assumed = fit(open_checkpoint(tmp_path / name), target=target).plan.assumed
    assert [("timm:tf_efficientnet_b0" in text) for text in assumed] == ([True] if told else [])
