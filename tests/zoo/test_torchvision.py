"""Every torchvision weights entry with a published figure: `meta["_ops"]` to the last digit, `num_params` exactly.

Classification, video, segmentation and optical flow, under `--convention torchvision`. Detection depends on the data.
"""

from __future__ import annotations

import functools

import pytest

from modelprobe.cost.conventions import count
from modelprobe.model.build import TargetRequest, load_model, record

torchvision_models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.zoo

SETTINGS = {
    # With weights the builder drops the auxiliary heads, which never run in eval mode: the published 6,624,904
    # parameters are of the model without them. Built without weights it has 13,004,888, at the same MACs.
    "googlenet": ("aux_logits=false",),
}
"""Builder -> constructor arguments that its weights imply."""

# Segmentation weights were trained, and published, with an auxiliary head, which runs in eval mode too.
AUXILIARY = ("aux_loss=true",)
PAIR = ("image1=1x3x512x512", "image2=1x3x512x512")
"""Optical flow: the transforms of those weights leave the published 512x512 image as it is."""


def entries() -> list[tuple[str, str]]:
    """(builder, weights entry) of all models but detection and quantised ones."""
    found = []
    for name in torchvision_models.list_models():
        if name.startswith("quantized_"):
            continue
        for weights in torchvision_models.get_model_weights(name):
            module = torchvision_models.get_model_builder(name).__module__
            if "detection" not in module:
                found.append((name, weights.name))
    return found


@functools.lru_cache(maxsize=4)
def recorded(name: str, settings: tuple[str, ...], sizes: tuple[str, ...]) -> tuple[int, int, int]:
    """MACs, parameters and uncounted operators of a builder at an input size."""
    found = record(load_model(TargetRequest(f"torchvision:{name}", settings, sizes)))
    total = count(found, "torchvision").total
    assert total == found.macs  # these families have nothing that torchvision leaves out
    return total, found.tree.parameter_count(), sum(item.count for item in found.uncounted)


def published_sizes(name: str, entry: str) -> tuple[str, ...]:
    """The input of the published figure, none where it is the default one."""
    module, weights = torchvision_models.get_model_builder(name).__module__, torchvision_models.get_model_weights(name)
    if "optical_flow" in module:
        return PAIR
    if "segmentation" in module:
        return tuple(map(str, weights[entry].transforms().resize_size))
    crop = weights[entry].transforms().crop_size
    if crop == weights.DEFAULT.transforms().crop_size:
        return ()
    return ("x".join(map(str, crop)) if len(crop) == 2 else str(crop[0]),)


@pytest.mark.parametrize(("name", "entry"), entries(), ids=lambda value: str(value))
def test_published_figures(name: str, entry: str) -> None:
    meta = torchvision_models.get_model_weights(name)[entry].meta
    auxiliary = name.startswith(("fcn_", "deeplabv3_"))
    settings = AUXILIARY if auxiliary else SETTINGS.get(name, ())
    macs, parameters, uncounted = recorded(name, settings, published_sizes(name, entry))
    assert uncounted == 0
    assert parameters == meta["num_params"]
    assert round(macs / 1e9, 3) == meta["_ops"]
