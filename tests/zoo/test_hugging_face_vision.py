"""Twelve classifiers and three segmentation networks of transformers: maps, scores and attention without an option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.vision.scores import Scores
from tests.command_line import CommandLine
from tests.samples import ROOT

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.zoo

VIT = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "image_size": 64,
    "patch_size": 8, "num_labels": 5,
}  # fmt: skip
CONV = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 5}
SEGFORMER = {
    "num_encoder_blocks": 4, "depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16,
    "num_labels": 5, "num_attention_heads": [1, 1, 2, 2],
}  # fmt: skip
MOBILEVIT = {
    "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "num_labels": 5,
    "num_attention_heads": 2, "aspp_out_channels": 16,
}  # fmt: skip
BEIT_MAPS = {"num_hidden_layers": 4, "patch_size": 16, "out_indices": [1, 2, 3, 4], "use_auxiliary_head": False}

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "ViT": VIT,
    "DeiT": VIT,
    "Beit": VIT,
    "Dinov2": {**VIT, "image_size": 70, "patch_size": 14},
    "ResNet": {**CONV, "layer_type": "basic"},
    "RegNet": {**CONV, "groups_width": 8},
    "ConvNext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_labels": 5, "image_size": 64},
    "ConvNextV2": {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_labels": 5, "image_size": 64},
    "Swin": {
        "image_size": 64, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4,
        "num_labels": 5,
    },
    "Segformer": SEGFORMER,
    "MobileNetV2": {"num_labels": 5, "image_size": 64, "depth_multiplier": 0.35},
    "MobileViT": MOBILEVIT,
}  # fmt: skip
SEGMENTERS: dict[str, dict[str, Any]] = {
    "Segformer": SEGFORMER, "Beit": {**VIT, **BEIT_MAPS}, "MobileViT": MOBILEVIT,
}  # fmt: skip


def built(name: str, task: str, settings: dict[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}For{task}")(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:  # heads are born so small that nothing can be told of their scores
            nn.init.normal_(parameter, std=0.2)
    size = settings.get("image_size", 64)
    return model, torch.rand(2, 3, size, size)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str) -> None:
    model, images = built(name, "ImageClassification", CLASSIFIERS[name])
    with torch.no_grad():
        logits = model(images).logits
    for index, found in enumerate(modelprobe.cam(model, images)):
        assert found.target == int(logits[index].argmax())
        assert found.probability == pytest.approx(float(logits[index].softmax(0).max()), abs=1e-5)
        assert torch.isfinite(found.map).all()
        assert "everything passes" in found.reason


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters(name: str) -> None:
    model, images = built(name, "SemanticSegmentation", SEGMENTERS[name])
    scores = Scores(model)
    found = scores.read(model(images), len(images))
    assert (scores.dense, found.shape[1], scores.kind) == (True, 5, "logits")
    most = int(found[0].argmax(0).flatten().bincount(minlength=5).argmax())
    one = modelprobe.cam(model, images[:1], most)
    assert "head" not in one.layer or "classifier" not in one.layer
    assert torch.isfinite(one.map).all()


NETS = """
from transformers import {name}Config, {name}ForImageClassification
def net() -> {name}ForImageClassification:
    return {name}ForImageClassification({name}Config(**{settings}))
"""


@pytest.mark.parametrize(
    ("command", "name", "key"),
    [("predict", "ConvNext", "predictions"), ("cam", "ResNet", "entries"), ("attention", "ViT", "entries")],
)
def test_the_command_line(
    command: str, name: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETS.format(name=name, settings=CLASSIFIERS[name]))
    ask: Callable[..., Any] = CommandLine(capsys)
    answer = ask(
        command, "net.py:net", "--weights", "random", "--image", str(ROOT / "samples" / "shapes.png"), "-f", "json"
    )
    assert answer.code == 0, answer.err
    assert f'"{key}"' in answer.out
