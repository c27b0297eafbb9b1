"""`features --layers '*'` on one architecture of every timm family and on every torchvision classifier.

Weights are random and cheap, images small where the architecture allows it; every output of every layer is captured,
measured and arranged as its layout says, and of every kind of layout one is drawn.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from modelprobe.tracing.capture import captured_until
from modelprobe.vision.features.drawing import Drawing, pictures_of
from modelprobe.vision.features.layouts import MATRIX, NOTHING, VECTOR, layouts
from modelprobe.vision.features.maps import layer_maps
from modelprobe.vision.features.stats import stats_of
from modelprobe.vision.images import open_image
from tests.samples import ROOT
from tests.zoo.small import built, recorded, smallest

pytestmark = pytest.mark.zoo

EXCEPTIONS: dict[str, str] = {}
"""Family or builder -> why its layers cannot be shown. Nothing stands here."""

FAMILIES = timm.list_modules()
BUILDERS = torchvision.models.list_models(module=torchvision.models)


def look(spec: str) -> None:
    """Every layer of a network, as the command looks at it."""
    photo = open_image(ROOT / "samples" / "shapes.png")
    target, seeing, trace = recorded(spec, photo)
    model, arguments, places = built(target), seeing.arguments(photo), layouts(trace)
    paths = list(dict.fromkeys(place.path for place in places))
    captured = captured_until(model, arguments, paths, (places[-1].path, places[-1].call))
    assert len(captured) == len(places)
    expected = {(place.path, place.call, place.index): place for place in places}
    drawn: set[str] = set()
    for name, tensor in captured.items():
        place = expected[captured.origins[name]]
        assert tuple(tensor.shape) == place.shape, name
        stats = stats_of(tensor, place.layout.channels)
        assert stats.count == tensor.numel()
        maps = layer_maps(tensor, place.layout)
        _check(maps, place.layout, tensor)
        if place.layout.kind not in drawn:
            drawn.add(place.layout.kind)
            list(pictures_of(maps, seeing.seen(photo), name, "zoo", Drawing(channels=9)))


def _check(maps, layout, tensor: torch.Tensor) -> None:
    """Nothing is lost: channels times places, and the tokens beside the grid, are all that there is."""
    if layout.kind == VECTOR:
        assert maps.row.size == tensor.numel()
    elif layout.kind == NOTHING:
        assert not maps.channels.size
    elif layout.kind != MATRIX and maps.unit == "channel":
        beside = (layout.before + layout.after) * maps.channels.shape[0]
        frames = max(1, len(maps.frames))
        pieces = math.prod(layout.tiles) if layout.tiles and not layout.covers else 1
        assert maps.channels.size * frames + beside * (pieces if layout.space and len(layout.space) == 1 else 1) == (
            tensor.numel()
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_timm_family(family: str) -> None:
    assert family not in EXCEPTIONS, EXCEPTIONS[family]
    look(f"timm:{smallest(family)}")


@pytest.mark.parametrize("builder", BUILDERS)
def test_every_torchvision_classifier(builder: str) -> None:
    assert builder not in EXCEPTIONS, EXCEPTIONS[builder]
    look(f"torchvision:{builder}")


def test_the_list_is_of_what_exists() -> None:
    assert set(EXCEPTIONS) <= {*FAMILIES, *BUILDERS}
    assert len(FAMILIES) > 50
    assert len(BUILDERS) > 70
    assert Path(timm.__file__).exists()
