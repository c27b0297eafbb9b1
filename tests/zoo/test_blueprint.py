"""What names and shapes imply, against the modules themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import nn

from modelprobe.model.zoo.index import read_catalogue
from modelprobe.zoo.blueprint import blueprint_of, classify, repeated_blocks
from tests.zoo.test_identify import default_models

SAMPLE, OTHERS = 400, 100
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
BATCH_NORM = nn.modules.batchnorm._BatchNorm
CONVOLUTIONS = {nn.Conv1d: "Conv1d", nn.Conv2d: "Conv2d", nn.Conv3d: "Conv3d"}


def kind_of(module: nn.Module) -> str:
    """What the blueprint should call a module; nothing for what it does not classify."""
    if isinstance(module, BATCH_NORM) or "BatchNorm" in type(module).__name__:  # frozen ones are classes of their own
        return "BatchNorm"
    if isinstance(module, NORMS):
        return "Norm" if module.weight is not None else ""
    for cls, name in CONVOLUTIONS.items():
        if isinstance(module, cls):
            return name
    return "Linear" if isinstance(module, nn.Linear) else "Embedding" if isinstance(module, nn.Embedding) else ""


@pytest.mark.zoo
def test_layers_of_networks(record_property: Callable[[str, object], None]) -> None:
    """Confirmed kinds are right everywhere, nine layers of ten have the right kind."""
    timm = pytest.importorskip("timm")
    sample = random.Random(0).sample([m for m in read_catalogue().models if m.origin == "timm"], SAMPLE)
    makers: list[Callable[[], nn.Module]] = [lambda model=model: timm.create_model(model.name) for model in sample]
    try:
        import transformers

        makers += [make for _, make in islice(default_models(transformers), OTHERS)]
    except ImportError:
        pass
    networks, layers, right, wrong_confirmed = 0, 0, 0, []
    for make in makers:
        try:
            with torch.device("meta"):
                model = make()
        except Exception:  # noqa: BLE001 - it needs more than its defaults
            continue
        networks += 1
        for path, module in model.named_modules():
            kind = kind_of(module)
            own = {name: tuple(value.shape) for name, value in module.state_dict().items() if "." not in name}
            said = classify(path, own) if own else None
            if said and said[2] == "confirmed" and kind != said[0]:
                wrong_confirmed.append(f"{type(model).__name__} {path}: {said[0]}, {type(module).__name__}")
            if kind and own:
                layers += 1
                right += bool(said and said[0] == kind)
    share = right / layers
    counts = {"networks": networks, "layers": layers, "right": right, "confirmed but wrong": len(wrong_confirmed)}
    record_property("figure blueprint", counts)
    assert wrong_confirmed == []
    assert share >= 0.9


def test_blocks_that_are_numbered_without_a_gap() -> None:
    names = {f"blocks.{i}.w": (1,) for i in range(12)} | {"head.0.w": (1,), "head.2.w": (1,)}
    assert repeated_blocks(names) == [("blocks", 12)]


def test_macs_are_a_lower_bound() -> None:
    """A convolution of 3 x 3 from 4 to 8 and a linear layer from 8 to 5, each at one position: 288 + 40."""
    names = {"conv.weight": (8, 4, 3, 3), "norm.weight": (8,), "norm.bias": (8,), "fc.weight": (5, 8), "fc.bias": (5,)}
    found = blueprint_of(names)
    assert (found.least_macs, found.most_macs) == (288 + 40, None)
    assert {layer.kind for layer in found.layers} == {"Conv2d", "Norm", "Linear"}
