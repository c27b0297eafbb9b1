"""What names and shapes imply of a network that is in no index: its layers, its blocks, a bound on its cost.

Every fact says how well it is known: `confirmed` by the shapes, `inferred` from names and the usual forms of layers, or
`unknown`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modelprobe.model.zoo.fingerprint import NamedShapes, TensorShape
from modelprobe.report.blocks import Block, Column, Fact, Facts, Row, Table
from modelprobe.report.units import Unit, shape
from modelprobe.tracing.records import numel

Confidence = Literal["confirmed", "inferred", "unknown"]

MAX_LAYER_ROWS = 20

_EMBEDDING = re.compile(
    r"embed|(?:^|\.)w[tp]e(?:\.|$)|token|position|shared$|relative_attention_bias|_table", re.IGNORECASE
)
_NORM = re.compile(r"norm|(?:^|\.)(?:bn|ln)_?\w*$", re.IGNORECASE)
_CONVOLUTIONS = {3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
WITH_MACS = ("Linear", *_CONVOLUTIONS.values())


@dataclass(frozen=True, slots=True)
class ImpliedLayer:
    """Layers of one kind and shape: how many, the first one's name, and how well the kind is known."""

    kind: str
    weight: TensorShape
    count: int
    first: str
    known: Confidence


@dataclass(frozen=True, slots=True)
class BlueprintFact:
    """One thing that names and shapes imply, or do not."""

    what: str
    value: str
    known: Confidence


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The layers and facts. `least_macs`: each convolution and linear layer once, at one position; no upper bound."""

    layers: tuple[ImpliedLayer, ...]
    facts: tuple[BlueprintFact, ...]
    parameters: int
    least_macs: int
    most_macs: int | None = None

    def blocks(self) -> list[Block]:
        """The facts, and the layers that occur most."""
        facts = [Fact(fact.what, fact.value, detail=fact.known) for fact in self.facts]
        facts.append(
            Fact("MACs", self.least_macs, Unit.MACS, "at least: each layer once at one position; input unknown")
        )
        columns = (
            Column("kind", "Layer"),
            Column("weight", "Weight", Unit.SHAPE),
            Column("count", "Count", Unit.COUNT),
            Column("first", "First", priority=2),
            Column("known", "Confidence", priority=1),
        )
        rows = tuple(
            Row((layer.kind, layer.weight, layer.count, layer.first, layer.known))
            for layer in self.layers[:MAX_LAYER_ROWS]
        )
        return [
            Facts(tuple(facts), "Blueprint"),
            Table(columns, rows, "Layers that names and shapes imply", key="layers"),
        ]


def blueprint_of(names: NamedShapes) -> Blueprint:
    """The layers, the repeated blocks and the widths that a state_dict implies."""
    modules: dict[str, dict[str, TensorShape]] = {}
    for name, size in names.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tuple(size)
    found: Counter[tuple[str, TensorShape, Confidence]] = Counter()
    firsts: dict[tuple[str, TensorShape, Confidence], str] = {}
    for module, leaves in modules.items():
        layer = classify(module, leaves)
        if layer is not None:
            firsts.setdefault(layer, module)
            found[layer] += 1
    layers = tuple(
        ImpliedLayer(kind, weight, count, firsts[kind, weight, known], known)
        for (kind, weight, known), count in found.most_common()
    )
    macs = sum(numel(layer.weight) * layer.count for layer in layers if layer.kind in WITH_MACS)
    return Blueprint(layers, _facts(names, layers), sum(numel(size) for size in names.values()), macs)


def classify(module: str, leaves: Mapping[str, TensorShape]) -> tuple[str, TensorShape, Confidence] | None:
    """The kind of a module with these parameters and buffers, its weight's shape, and how well the kind is known."""
    if {"running_mean", "running_var"} <= leaves.keys():
        return "BatchNorm", leaves.get("weight", leaves["running_mean"]), "confirmed"
    weight = leaves.get("weight", leaves.get("weight_v", leaves.get("original1")))
    if weight is None:
        if {"gamma", "beta"} <= leaves.keys() and len(leaves["gamma"]) == 1:
            return "Norm", leaves["gamma"], "inferred"
        return ("Recurrent", leaves["weight_ih_l0"], "inferred") if "weight_ih_l0" in leaves else None
    if len(weight) in _CONVOLUTIONS:
        return _CONVOLUTIONS[len(weight)], weight, "inferred"
    if len(weight) == 2:
        biased = leaves.get("bias") == weight[:1]
        embeds = not biased and _EMBEDDING.search(module) and not module.endswith(("proj", "dense", "linear"))
        return "Embedding" if embeds else "Linear", weight, "inferred"
    if len(weight) == 1 and (leaves.get("bias") == weight or _NORM.search(module) or weight[0] > 1):
        return "Norm", weight, "inferred"
    return None


def _facts(names: NamedShapes, layers: tuple[ImpliedLayer, ...]) -> tuple[BlueprintFact, ...]:
    found = [BlueprintFact("Parameters and buffers", f"{sum(numel(s) for s in names.values()):,}", "confirmed")]
    for place, count in repeated_blocks(names)[:3]:
        found.append(BlueprintFact("Numbered blocks", f"{count} under {place}", "confirmed"))
    linear = [layer for layer in layers if layer.kind == "Linear"]
    if linear:
        found.append(BlueprintFact("Linear", f"{shape(linear[0].weight[::-1])}, {linear[0].count} times", "inferred"))
    if any("attn" in name or "attention" in name for name in names):
        tables = {s[1] for n, s in names.items() if n.endswith("relative_position_bias_table") and len(s) == 2}
        heads = ", ".join(map(str, sorted(tables)))
        found.append(BlueprintFact("Attention heads", heads or "not in the file", "inferred" if tables else "unknown"))
    found.append(BlueprintFact("Strides, groups, activations, input", "not in the file", "unknown"))
    return tuple(found)


def repeated_blocks(names: NamedShapes) -> list[tuple[str, int]]:
    """Places whose children are numbered from 0 without a gap, each with parameters, and how many; most first."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        parts = name.split(".")[:-1]
        for index, part in enumerate(parts):
            if part.isdecimal() and len(part) < 6:
                numbers.setdefault(".".join(parts[:index]) or "the root", set()).add(int(part))
    whole = [(place, len(held)) for place, held in numbers.items() if len(held) > 1 and max(held) == len(held) - 1]
    return sorted(whole, key=lambda entry: (-entry[1], entry[0]))
