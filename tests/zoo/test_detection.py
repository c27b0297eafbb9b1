"""torchvision's detectors: the published figure lies between the bounds that the number of boxes sets."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torchvision.models as torchvision_models

from modelprobe.cost.data_dependent import cost_bounds
from modelprobe.cost.flops import FlopsResult, flops_of
from modelprobe.model.build import TargetRequest, load_model, record

pytestmark = pytest.mark.zoo

ONE_STAGE = ("fcos", "retinanet", "ssd")
"""Detectors whose heads run on every position of every map: nothing depends on the data, the figure is met exactly."""


def entries() -> list[tuple[str, str]]:
    names = [
        n for n in torchvision_models.list_models() if "detection" in torchvision_models.get_model_builder(n).__module__
    ]
    return [(name, entry.name) for name in names for entry in torchvision_models.get_model_weights(name)]


@functools.lru_cache(maxsize=2)
def counted(name: str) -> FlopsResult:
    loaded = load_model(TargetRequest(f"torchvision:{name}"))
    trace = record(loaded)
    found = flops_of(trace)
    assert found.uncounted == ()

    return replace(found, ranges=cost_bounds(loaded.model, trace))


@pytest.mark.parametrize(("name", "entry"), entries(), ids=lambda value: str(value))
def test_published_figure_lies_in_the_range(name: str, entry: str) -> None:
    published = torchvision_models.get_model_weights(name)[entry].meta["_ops"]
    found = counted(name)
    least, most = (round(macs / 1e9, 3) for macs in (found.least_macs, found.most_macs))
    assert found.least_macs <= found.macs <= found.most_macs
    assert least <= published <= most
    if name.startswith(ONE_STAGE):
        assert found.ranges == ()
        assert published == least
    else:
        assert least < most
