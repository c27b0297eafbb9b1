"""What one step says of a model: no gradient and why, dead and saturated units, gradients that grow or fade."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from modelprobe.inside.health.activations import LayerActivity
from modelprobe.inside.health.batch_run import BatchRun, ParameterHealth
from modelprobe.inside.health.findings import HealthFinding, listed_names

DEAD_SHARE = 0.5
"""Share of a layer's units, zero for the whole batch, from which on it is told."""

SATURATED_SHARE = 0.9

FADED = 1e-4
"""Gradient at one layer over that at another, from which down it has vanished."""

GROWN = 1e4

STEP_OF_WEIGHT = 0.1
"""Size of a step over that of the weight, from which on it is told."""

WHY = {
    "frozen": "frozen (requires_grad is false)",
    "unused": "the layer never ran",
    "no_grad": "its layer ran in a torch.no_grad block",
    "detached": "the loss does not depend on it, it is detached",
    "stopped": "a function in between gives none",
}


def batch_findings(run: BatchRun, rate: float | None = None, optimizer: str = "sgd") -> list[HealthFinding]:
    """Everything that one step shows to be wrong."""
    return [
        *_not_finite(run),
        *_unregistered(run),
        *_no_gradient(run.parameters),
        *_dead(run.layers),
        *_saturated(run.layers),
        *_by_depth(run.layers),
        *_probabilities(run),
        *_large_steps(run.parameters, rate, optimizer),
    ]


def _not_finite(run: BatchRun) -> Iterator[HealthFinding]:
    bad = run.bad
    if bad is not None:
        where = f"the gradient of {bad.path or 'the model itself'}" if bad.backward else bad.path or "the model itself"
        line = f" ({bad.line})" if bad.line else ""
        text = f"{bad.operator} in {where}{line} is the first to give {bad.what}, for finite operands."
        yield HealthFinding("not finite", (bad.path,), text, f"largest operand {bad.given}, loss {run.loss:.4g}")
    elif not math.isfinite(run.loss):
        yield HealthFinding("not finite", (), "The loss is not finite, and so is what the model is given.", "")


def _unregistered(run: BatchRun) -> Iterator[HealthFinding]:
    if run.unregistered:
        many = sum(math.prod(shape) for shape in run.unregistered)
        why = "no module registers them (layers in a plain list?): no optimizer gets them"
        text = f"{many:,} parameters are used and {why}."
        shapes = ", ".join("x".join(map(str, shape)) for shape in run.unregistered[:3])
        yield HealthFinding("unregistered", (), text, f"{len(run.unregistered)} tensors: {shapes}")


def _no_gradient(parameters: Sequence[ParameterHealth]) -> Iterator[HealthFinding]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in parameters:
        if one.reason and one.reason != "frozen":
            by_reason[one.reason].append(one.name)
    for reason, names in by_reason.items():
        text = f"{listed_names(names)} got no gradient: {WHY[reason]}."
        yield HealthFinding("no gradient", tuple(names), text, f"{len(names)} of {len(parameters)} parameters")
    zero = [one.name for one in parameters if one.norm == 0]
    if zero:
        text = f"The gradient of {listed_names(zero)} is zero everywhere."
        yield HealthFinding("no gradient", tuple(zero), text, f"{len(zero)} of {len(parameters)} parameters")
    frozen = [one.name for one in parameters if one.reason == "frozen"]
    inner = [name for name in frozen if _between(name, [one.name for one in parameters], set(frozen))]
    if inner and len(frozen) < len(parameters) / 2:
        text = f"{listed_names(inner)} are frozen while layers before and behind train."
        yield HealthFinding("no gradient", tuple(inner), text, f"{len(frozen)} of {len(parameters)} parameters")


def _between(name: str, every: Sequence[str], frozen: set[str]) -> bool:
    place = every.index(name)
    return any(n not in frozen for n in every[:place]) and any(n not in frozen for n in every[place:])


def _dead(layers: Sequence[LayerActivity]) -> Iterator[HealthFinding]:
    for layer in layers:
        if layer.units >= 4 and layer.dead / layer.units >= DEAD_SHARE:
            text = f"{layer.path or layer.cls}: {layer.dead} of {layer.units} units are zero for the whole batch."
            yield HealthFinding("dead units", (layer.path,), text, f"{layer.zeros:.0%} zeros")


def _saturated(layers: Sequence[LayerActivity]) -> Iterator[HealthFinding]:
    for layer in layers:
        if layer.saturated is not None and layer.saturated >= SATURATED_SHARE:
            text = f"{layer.path or layer.cls}: {layer.saturated:.0%} of the values stand at the ends of {layer.cls}."
            yield HealthFinding("saturated", (layer.path,), text, f"deviation of the output {layer.std:.2g}")


def _by_depth(layers: Sequence[LayerActivity]) -> Iterator[HealthFinding]:
    """Gradients at the first layers beside those at the last, by the largest of each third."""
    known = [layer for layer in layers if layer.gradient]
    if len(known) < 4:
        return
    third = max(1, len(known) // 3)
    first = max(layer.gradient or 0.0 for layer in known[:third])
    last = max(layer.gradient or 0.0 for layer in known[-third:])
    # The loss averages over positions: it is the same number of elements that counts.
    ratio = first * math.sqrt(math.prod(known[0].shape)) / (last * math.sqrt(math.prod(known[-1].shape)))
    names = (known[0].path, known[-1].path)
    evidence = f"{ratio:.1e} x that at {names[1]}"
    if ratio < FADED:
        yield HealthFinding("vanishing gradient", names, f"The gradient has vanished at {names[0]}.", evidence)
    elif ratio > GROWN:
        yield HealthFinding("exploding gradient", names, f"The gradient explodes towards {names[0]}.", evidence)


def _probabilities(run: BatchRun) -> Iterator[HealthFinding]:
    if run.probabilities and "cross" in run.loss_name:
        text = "The model returns probabilities, and cross-entropy takes logits: softmax is applied twice."
        yield HealthFinding("double softmax", (), text, f"loss {run.loss:.4g}")


def _large_steps(parameters: Sequence[ParameterHealth], rate: float | None, optimizer: str) -> Iterator[HealthFinding]:
    if rate is None:
        return
    large = [(size, one.name) for one in parameters if (size := step_of(one, rate, optimizer) or 0) > STEP_OF_WEIGHT]
    if large:
        names = [name for _, name in sorted(large, reverse=True)]
        text = f"A step of {optimizer} with lr {rate:g} changes {listed_names(names)} by much of itself."
        yield HealthFinding("exploding step", tuple(names), text, f"up to {max(large)[0]:.2g} of the weight")


def step_of(one: ParameterHealth, rate: float, optimizer: str) -> float | None:
    """The first step's size over the weight's: lr x gradient for SGD, lr in each element for Adam's kind."""
    if not one.norm or not one.weight or not math.isfinite(one.norm) or len(one.shape) < 2:
        return None
    if optimizer.startswith("adam"):
        return rate * math.sqrt(math.prod(one.shape) * (1 - (one.zeros or 0.0))) / one.weight
    return rate * one.norm / one.weight
