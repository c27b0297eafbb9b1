"""torchvision's quantised builders: published figures of the float network on meta and of the int8 one for real."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision.models as torchvision_models

from modelprobe.model.build import TargetRequest, load_model, record

pytestmark = pytest.mark.zoo

DEAR = ("inception", "resnet50", "resnext")
"""Networks whose conversion to int8 takes the better part of a minute: under `slow` as well."""


def entries() -> list[tuple[str, str]]:
    names = [name for name in torchvision_models.list_models() if name.startswith("quantized_")]
    return [(name, entry.name) for name in names for entry in torchvision_models.get_model_weights(name)]


def cheap_ones_in_ci() -> list[Any]:
    return [
        pytest.param(name, entry, marks=[pytest.mark.slow] if any(word in name for word in DEAR) else [])
        for name, entry in entries()
    ]


def check(name: str, entry: str, *settings: str) -> None:
    weights = torchvision_models.get_model_weights(name)[entry]
    size = weights.transforms().crop_size[0]
    found = record(load_model(TargetRequest(f"torchvision:{name}", settings, (str(size),))))
    assert found.uncounted == ()
    assert round(found.macs / 1e9, 3) == weights.meta["_ops"]


def test_every_entry_is_here() -> None:
    assert len(entries()) == 14


@pytest.mark.parametrize(("name", "entry"), entries())
def test_float(name: str, entry: str) -> None:
    check(name, entry)


@pytest.mark.parametrize(("name", "entry"), cheap_ones_in_ci())
def test_quantised(name: str, entry: str) -> None:
    check(name, entry, "quantize=true")
