"""A training step of torchvision's detectors, for real on the CPU: their losses differentiated, nothing uncounted."""

from __future__ import annotations

import pytest

from modelprobe.cost.training_step import record_training_step
from modelprobe.model.build import TargetRequest, load_model
from modelprobe.report.blocks import Level

torchvision_models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.slow

SMALL = ("min_size=256", "max_size=256")
"""The operators are those of full-size images; SSDs have a size of their own."""


@pytest.mark.parametrize("name", torchvision_models.list_models(module=torchvision_models.detection))
def test_detectors(name: str) -> None:
    sized = not name.startswith("ssd")
    request = TargetRequest(f"torchvision:{name}", SMALL if sized else (), ("256",) if sized else ())
    found = record_training_step(load_model(request))
    forward, backward = found.forward.macs, sum(step.op.macs for step in found.gradients)
    assert found.uncounted == ()
    assert found.forward_macs == forward
    assert forward <= backward <= 2 * forward
    assert found.unreached == ()
    assert len(found.summed) >= 2  # every loss by its name
    assert any(note.text.startswith("The targets were made up") for note in found.notes if note.level is Level.ASSUMED)
