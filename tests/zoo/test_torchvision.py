"""Every torchvision weights entry with a published figure: `meta["_ops"]` to the last digit, `num_params` exactly."""

from __future__ import annotations

import functools

import pytest

from modelprobe.commands.subject import Question, build, record

torchvision_models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.zoo

SETTINGS = {
    # With weights the builder drops the auxiliary heads, which never run in eval mode: the published 6,624,904
    # parameters are of the model without them. Built without weights it has 13,004,888, at the same MACs.
    "googlenet": ("aux_logits=false",),
}
"""Builder -> constructor arguments that its weights imply."""


def entries() -> list[tuple[str, str]]:
    """(builder, weights entry) of the classification and video models, quantised ones left out."""
    found = []
    for name in torchvision_models.list_models():
        if name.startswith("quantized_"):
            continue
        for weights in torchvision_models.get_model_weights(name):
            module = torchvision_models.get_model_builder(name).__module__
            if "detection" not in module and "segmentation" not in module and "optical_flow" not in module:
                found.append((name, weights.name))
    return found


@functools.lru_cache(maxsize=4)
def recorded(name: str, sizes: tuple[str, ...]) -> tuple[int, int, int]:
    """MACs, parameters and uncounted operators of a builder at an input size."""
    found = record(build(Question(f"torchvision:{name}", SETTINGS.get(name, ()), sizes)))
    return found.macs, found.tree.parameter_count(), sum(item.count for item in found.uncounted)


@pytest.mark.parametrize(("name", "entry"), entries(), ids=lambda value: str(value))
def test_published_figures(name: str, entry: str) -> None:
    weights = torchvision_models.get_model_weights(name)[entry]
    crop = weights.transforms().crop_size
    default = torchvision_models.get_model_weights(name).DEFAULT.transforms().crop_size
    # An entry that was evaluated at another size than the default one is recorded at its own.
    sizes = () if crop == default else ("x".join(map(str, crop)) if len(crop) == 2 else str(crop[0]),)
    macs, parameters, uncounted = recorded(name, sizes)
    assert uncounted == 0
    assert parameters == weights.meta["num_params"]
    assert round(macs / 1e9, 3) == weights.meta["_ops"]
