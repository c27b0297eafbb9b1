"""`features --layers '*'` on one architecture of every timm family and on every torchvision classifier.

Weights are random and cheap, images small where the architecture allows it; every output of every layer is captured,
measured and arranged as its layout says, and of every kind of layout one is drawn.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from modelprobe.tracing.capture import captured_until
from modelprobe.vision.features.drawing import Drawing, pictures_of
from modelprobe.vision.features.maps import layer_maps
from modelprobe.vision.features.outputs import MATRIX, NOTHING, VECTOR, LayerOutputs
from modelprobe.vision.features.stats import stats_of
from modelprobe.vision.images import open_image
from tests.samples import ROOT
from tests.sampling import sampled
from tests.zoo.small import built, recorded, smallest

pytestmark = pytest.mark.zoo

EXCEPTIONS: dict[str, str] = {}
"""Family or builder -> why its layers cannot be shown. Nothing stands here."""

GUESSED = {
    "convit": "a table of relative positions, made of no image",
    "edgenext": "attention of channels to channels",
    "efficientvim": "products over all positions, in a state of its own size",
    "gcvit": "queries of the whole image, in every window again",
    "gemma4_vit": "positions and their embeddings, made of no image",
    "mlp_mixer": "linear layers over positions",
    "sequencer": "the last states of an LSTM",
    "swin_transformer_v2": "a table of relative positions, made of no image",
    "swin_transformer_v2_cr": "a table of relative positions, made of no image",
    "swin_v2_b": "a table of relative positions, made of no image",
    "swin_v2_s": "a table of relative positions, made of no image",
    "swin_v2_t": "a table of relative positions, made of no image",
    "vision_transformer_relpos": "a table of relative positions, made of no image",
    "xcit": "attention of channels to channels",
}
"""Family or builder -> the layers whose layout is read from sizes or order. Everywhere else all is followed."""

FAMILIES = timm.list_modules()
BUILDERS = torchvision.models.list_models(module=torchvision.models)


def look(spec: str, guessed: bool) -> None:
    """Every layer of a network, as the command looks at it. `guessed`: not all of their layouts can be followed."""
    photo = open_image(ROOT / "samples" / "shapes.png")
    outputs = LayerOutputs()
    target, seeing, _ = recorded(spec, photo, outputs)
    model, arguments, places = built(target), seeing.arguments(photo), outputs.layouts()
    paths = list(dict.fromkeys(place.path for place in places))
    captured = captured_until(model, arguments, paths, (places[-1].path, places[-1].call))
    assert len(captured) == len(places)
    assert any(place.layout.how != "operators" for place in places) is guessed
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
        beside = layout.places.beside * maps.channels.shape[0]
        assert maps.channels.size * max(1, len(maps.frames)) + beside == tensor.numel()


@pytest.mark.parametrize("family", sampled(FAMILIES, 6))
def test_every_timm_family(family: str) -> None:
    assert family not in EXCEPTIONS, EXCEPTIONS[family]
    look(f"timm:{smallest(family)}", family in GUESSED)


@pytest.mark.parametrize("builder", sampled(BUILDERS, 6))
def test_every_torchvision_classifier(builder: str) -> None:
    assert builder not in EXCEPTIONS, EXCEPTIONS[builder]
    look(f"torchvision:{builder}", builder in GUESSED)


def test_the_list_is_of_what_exists() -> None:
    assert {*EXCEPTIONS, *GUESSED} <= {*FAMILIES, *BUILDERS}
    assert len(FAMILIES) > 50
    assert len(BUILDERS) > 70
    assert Path(timm.__file__).exists()
