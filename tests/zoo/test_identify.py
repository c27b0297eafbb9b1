"""`identify` at large: every network from its own names and shapes, with other heads and inputs; others' networks.

The figures stand in the summary that pytest prints: `pytest -m "zoo or slow" tests/zoo/test_identify.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from modelprobe.model.zoo.fingerprint import TensorShape
from modelprobe.model.zoo.index import Catalogue, read_catalogue
from modelprobe.model.zoo.match import Match, match_network

pytestmark = pytest.mark.zoo

SAMPLES = [40, pytest.param(200, marks=pytest.mark.slow)]
CLASSES = {"num_classes": 10}
CHANGES: dict[str, dict[str, int]] = {
    "other head": CLASSES,
    "one channel": {"in_chans": 1},
    "no head": {"num_classes": 0},
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue()


def right(found: Match, target: str) -> bool:
    """Whether the first answer is the network, or one that fits just as well."""
    return bool(found.candidates) and target in (found.candidates[0].target, *found.candidates[0].same_as)


def test_every_network_is_itself(catalogue: Catalogue, record_property: Callable[[str, object], None]) -> None:
    wrong, verdicts = [], {"certain": 0, "likely": 0, "unknown": 0}
    for model in catalogue.models:
        found = match_network(catalogue.names(model), catalogue)
        verdicts[found.verdict] += 1
        if not right(found, model.target) or found.candidates[0].score < 1:
            wrong.append(model.target)
    record_property("figure identify, as saved", {"networks": len(catalogue.models), "wrong": len(wrong), **verdicts})
    assert wrong == []


@pytest.mark.parametrize("count", SAMPLES)
@pytest.mark.parametrize("change", CHANGES)
def test_changed_networks(
    catalogue: Catalogue, record_property: Callable[[str, object], None], change: str, count: int
) -> None:
    timm = pytest.importorskip("timm")
    sample = random.Random(0).sample([m for m in catalogue.models if m.origin == "timm"], count)
    wrong, verdicts, tried = [], {"certain": 0, "likely": 0, "unknown": 0}, 0
    for model in sample:
        names = state_of(lambda model=model: timm.create_model(model.name, **CHANGES[change]))
        if names is None:
            continue  # the family does not take the argument
        tried += 1
        found = match_network(names, catalogue)
        verdicts[found.verdict] += 1
        if not right(found, model.target):
            wrong.append(f"{model.target} as {found.candidates[0].target if found.candidates else 'nothing'}")
    record_property(f"figure identify, {change}", {"networks": tried, "wrong": len(wrong), **verdicts})
    assert len(wrong) <= max(1, 0.01 * tried), wrong


def test_networks_of_transformers_are_not_misnamed(
    catalogue: Catalogue, record_property: Callable[[str, object], None]
) -> None:
    """None is called certain, but for the few that are the very same network as one of timm's under another name."""
    transformers = pytest.importorskip("transformers")
    named, tried = [], 0
    for name, make in default_models(transformers):
        names = state_of(make)
        if names is None:
            continue
        tried += 1
        found = match_network(names, catalogue)
        if found.verdict != "unknown":
            named.append(f"{name}: {found.verdict} {found.candidates[0].target} {found.candidates[0].score}")
        if tried == 100:
            break
    record_property("figure identify, transformers", {"networks": tried, "named": len(named)})
    print(*named, sep="\n")
    same = ("ViT", "DeiT", "Beit", "Swin", "ConvNext")
    assert not [line for line in named if ": certain" in line and not line.startswith(same)]


def state_of(make: Callable[[], Any]) -> dict[str, TensorShape] | None:
    """Names and shapes of what `make` builds on meta; None where it does not."""
    try:
        with torch.device("meta"):
            return {name: tuple(value.shape) for name, value in make().state_dict().items() if hasattr(value, "shape")}
    except Exception:  # noqa: BLE001 - whatever stands in the way of building it
        return None


def default_models(transformers: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The base models of every configuration that has defaults, those of images among the first."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    words = ("Vi", "De", "Swin", "Net", "Former", "former", "Bit", "Dino", "Mae")
    pairs = []
    for config in list(MODEL_MAPPING.keys()):
        with suppress(Exception):  # it needs a library that is not here
            model = MODEL_MAPPING[config]
            pairs.append((model.__name__, config))
    pairs.sort(key=lambda pair: not any(word in pair[0] for word in words))
    for name, config in pairs:
        yield name, lambda name=name, config=config: getattr(transformers, name)(config())


NAME = "torchvision:squeezenet1_1"


def without(names: dict[str, TensorShape], *gone: str) -> dict[str, TensorShape]:
    return {name: shape for name, shape in names.items() if name not in gone}


DAMAGES: dict[str, tuple[Callable[[dict[str, TensorShape]], dict[str, TensorShape]], str]] = {
    "none": (lambda names: names, "certain"),
    "one missing": (lambda names: without(names, "features.7.expand1x1.weight"), "likely"),
    "the first missing": (lambda names: without(names, "features.0.weight"), "likely"),
    "a bias missing": (lambda names: without(names, "features.3.squeeze.bias"), "likely"),
    "one of another shape": (lambda names: {**names, "features.7.squeeze.weight": (33, 257, 1, 1)}, "likely"),
    "one renamed": (
        lambda names: {"other" if name == "features.7.squeeze.bias" else name: shape for name, shape in names.items()},
        "likely",
    ),
    "one more": (lambda names: {**names, "my.scale": (3,)}, "certain"),
    "the head missing": (lambda names: without(names, "classifier.1.weight", "classifier.1.bias"), "certain"),
    "a fire module missing": (lambda names: {n: s for n, s in names.items() if ".9." not in n}, "unknown"),
    "half missing": (lambda names: dict(list(names.items())[:26]), "unknown"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_likely_while_little_is_missing(catalogue: Catalogue, damage: str) -> None:
    change, verdict = DAMAGES[damage]
    model = next(model for model in catalogue.models if model.target == NAME)
    found = match_network(change(dict(catalogue.names(model))), catalogue)
    assert (found.verdict, found.candidates[0].target) == (verdict, NAME)
