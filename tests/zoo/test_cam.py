"""`cam` with no `--layer` on one architecture of every timm family and on every torchvision classifier.

Weights are random and cheap, images small where the architecture allows it. The layer is chosen as for a person; its
map must be finite, not empty, of the image's size and of the layer's grid, and that grid must be as wide as it is high,
since the image is.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from modelprobe.vision.cam.layer import Choice
from modelprobe.vision.cam.mapper import ClassMapper
from modelprobe.vision.cam.methods import ScoreTarget
from modelprobe.vision.images import open_image
from tests.samples import ROOT
from tests.sampling import sampled
from tests.zoo.small import built, recorded, smallest

pytestmark = pytest.mark.zoo

EXCEPTIONS: dict[str, str] = {}
"""Family or builder -> the mathematical reason why no map can be made. Nothing stands here."""

IN_PARTS = {
    "crossvit": "two branches of patches, whose class tokens alone meet in the scores",
}
"""Family or builder -> why no single layer carries everything from the image to the scores: a note says so."""

FAMILIES = timm.list_modules()
MODELS = torchvision.models
BUILDERS = [*MODELS.list_models(module=MODELS), *MODELS.list_models(module=MODELS.quantization)]


def look(spec: str) -> Choice:
    """The chosen layer, after its map was made and looked at."""
    photo = open_image(ROOT / "samples" / "shapes.png")
    target, seeing, _ = recorded(spec, photo)
    if spec.startswith("timm:") and not getattr(built(target), "num_classes", 1):
        target = target.with_given({"num_classes": 10})  # a backbone that is published without a head
    model, image = built(target), seeing.tensor(photo)
    ((found,),), (choice,) = ClassMapper(model, ["gradcam"]).maps(image, lambda row: [ScoreTarget(int(row.argmax()))])
    grid = choice.layer.grid
    assert tuple(found.raw.shape) == (grid.height, grid.width)
    assert found.map.shape == image.shape[-2:]
    assert torch.isfinite(found.raw).all()
    assert found.raw.any()
    assert grid.height == grid.width
    print(f"{spec} {tuple(image.shape[-2:])} {choice.layer.path} {grid.height}x{grid.width} {grid.layout}")
    return choice


@pytest.mark.parametrize("family", sampled(FAMILIES, 6))
def test_every_timm_family(family: str) -> None:
    assert family not in EXCEPTIONS, EXCEPTIONS[family]
    assert look(f"timm:{smallest(family)}").whole == (family not in IN_PARTS)


@pytest.mark.parametrize("builder", sampled(BUILDERS, 6))
def test_every_torchvision_classifier(builder: str) -> None:
    assert builder not in EXCEPTIONS, EXCEPTIONS[builder]
    assert look(f"torchvision:{builder}").whole
