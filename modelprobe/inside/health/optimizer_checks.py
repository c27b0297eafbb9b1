"""What an optimizer's state says: parameters that no gradient reached, dead units, steps that are too large or zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy

from modelprobe.inside.health.file_checks import LARGE_STEP, LayerValues
from modelprobe.inside.health.file_values import TensorValues
from modelprobe.inside.health.findings import HealthFinding, listed_names
from modelprobe.inside.health.initializers import fans
from modelprobe.inside.health.optimizer_state import OptimizerState, ParameterState

MANY_DEAD = 0.5
"""Share of a layer's outputs from which on dead units are told: a few die in every network of ReLUs."""

UNBOUNDED = 1.0
"""Learning rate of an adaptive optimizer over 1 / sqrt(fan-in), from which on its first steps drown the weights."""

STALE = 1e-4
"""First moment over the root of the second, from which down no gradient came for some ninety steps (0.9^90)."""


@dataclass(slots=True)
class StateValues:
    """A parameter's state with the values of its tensors."""

    state: ParameterState
    first: TensorValues | None
    second: TensorValues | None

    @property
    def label(self) -> str:
        """The parameter's name; its number in the optimizer where no order of parameters fits."""
        return self.state.name or f"parameter {self.state.index} of the optimizer"


def check_gradients(states: Sequence[StateValues], optimizer: OptimizerState) -> Iterator[HealthFinding]:
    """Parameters that the optimizer knows and that no gradient ever reached."""
    silent = [s.label for s in states if _all_zero(s)]
    if optimizer.states:
        silent += [state.name or f"parameter {state.index} of the optimizer" for state in optimizer.missing]
    if not silent:
        return
    if len(silent) == len(states) + len(optimizer.missing):
        text = "No parameter ever received a gradient."
    else:
        text = f"No gradient ever reached {listed_names(silent)}."
    known = len(states) + len(optimizer.missing)
    yield HealthFinding("no gradient", tuple(silent), text, f"{len(silent)} of {known} parameters in the optimizer")


def _all_zero(values: StateValues) -> bool:
    kept = values.second or values.first
    return kept is not None and kept.is_constant(0.0)


def check_units(states: Sequence[StateValues], layers: Mapping[str, LayerValues]) -> Iterator[HealthFinding]:
    """Outputs of a layer that no gradient reaches any more, while it reaches the others: dead units."""
    for values in states:
        path, _, last = values.state.name.rpartition(".")
        layer = layers.get(path)
        first, second = values.first, values.second
        if last != "weight" or layer is None or layer.weight is None:
            continue
        if "bias" not in layer.tensors and len(layer.weight.shape) < 3:
            continue  # it may be an embedding, whose rows wait for their words
        if first is None or first.rows is None or len(first.rows) < 4 or _all_zero(values):
            continue
        moved = numpy.sqrt(first.rows)
        if second is not None and second.rows is not None:
            # `rows` of a second moment are sums of squares of mean squares: the fourth root has a gradient's unit.
            usual = second.rows**0.25
            dead = (moved <= STALE * usual) | (usual == 0)
        else:
            dead = moved <= STALE * float(numpy.median(moved))
            if values.state.inertia and layer.weight.rows is not None:  # weight decay goes on without a gradient
                alone = values.state.inertia * numpy.sqrt(layer.weight.rows)
                dead |= numpy.abs(moved - alone) <= 0.05 * alone
        if dead.mean() >= MANY_DEAD and not dead.all():
            outputs = listed_names(map(str, numpy.flatnonzero(dead).tolist()), 5)
            yield HealthFinding(
                "dead units", (layer.label,),
                f"{layer.label}: no gradient reaches output {outputs} any more: dead units.",
                f"{int(dead.sum())} of {len(dead)} outputs",
            )  # fmt: skip
        elif dead.all():
            text = f"{layer.label}: no gradient reaches any of its outputs any more: all units are dead."
            yield HealthFinding("dead units", (layer.label,), text, f"{len(dead)} of {len(dead)} outputs")


def check_steps(states: Sequence[StateValues], layers: Mapping[str, LayerValues]) -> Iterator[HealthFinding]:
    """The size of the next step beside that of the weight."""
    large: list[tuple[float, str]] = []
    drowned: list[tuple[float, str]] = []
    known = 0
    for values in states:
        path, _, last = values.state.name.rpartition(".")
        weight = layers[path].weight if path in layers and last == "weight" else None
        step = _step_size(values)
        if weight is None or not weight.rms or step is None:
            continue
        known += 1
        if step / weight.rms > LARGE_STEP:
            large.append((step / weight.rms, values.label))
        rate = (values.state.lr or 0.0) * math.sqrt(fans(weight.shape)[0]) if values.second is not None else 0.0
        if rate > UNBOUNDED and "emb" not in path.lower():
            drowned.append((rate, values.label))
    if large and len(large) >= max(1, known / 3):
        most = max(large)[0]
        text = f"One step changes {listed_names(name for _, name in sorted(large, reverse=True))} by much of itself."
        yield HealthFinding("exploding step", tuple(name for _, name in large), text, f"up to {most:.2g} of the weight")
    elif drowned and len(drowned) >= max(1, known / 2):
        text = f"The learning rate is too large for {listed_names(name for _, name in sorted(drowned, reverse=True))}."
        evidence = f"lr is up to {max(drowned)[0]:.2g} / sqrt(fan-in), the size of a weight"
        yield HealthFinding("exploding step", tuple(name for _, name in drowned), text, evidence)


def _step_size(values: StateValues) -> float | None:
    """The root mean square of lr x m / (sqrt(v) + eps), or of lr x momentum."""
    first, second, rate = values.first, values.second, values.state.lr
    if first is None or rate is None or first.rms is None:
        return None
    if second is None:
        return rate * first.rms
    if second.mean is None or second.mean < 0:
        return None
    return float(rate * first.rms / (second.mean**0.5 + values.state.eps))


def check_rate(optimizer: OptimizerState, layers: Sequence[LayerValues]) -> Iterator[HealthFinding]:
    """A learning rate of zero, where nothing was trained: at the end of a schedule it is meant."""
    weights = [layer for layer in layers if layer.weight is not None and layer.untrained is not None]
    stuck = bool(weights) and all(layer.untrained for layer in weights)
    if optimizer.rates and not any(optimizer.rates) and stuck:
        text = "The learning rate is zero, and every weight is as its initializer left it."
        yield HealthFinding("learning rate zero", (), text, f"{len(optimizer.rates)} groups with lr 0")
