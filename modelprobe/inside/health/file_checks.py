"""What the values of a file say: layers that were never trained, dead filters, collapsed variances, steps too large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy

from modelprobe.inside.health.file_values import TensorValues
from modelprobe.inside.health.findings import HealthFinding, listed_names
from modelprobe.inside.health.initializers import LEAST, InitializerFit, fans, fitting_initializer

DEAD_FILTER = 1e-4
"""Norm of a filter over the median of its layer, from which down it does nothing."""

COLLAPSED = 1e-8
"""Running variance over the largest of its layer, from which down a channel is constant."""

EXPLODED = 12.0
"""Weights in units of 1 / sqrt(fan-in), which keeps activations as they are, from which on they are huge."""

LARGE_STEP = 0.2
"""Root mean square of a step over that of the weight, from which on a step rewrites the weight."""


LEAST_WITHOUT_BIAS = 1000
"""Values from which on bounds other than torch's default are no accident."""


@dataclass(slots=True)
class LayerValues:
    """The tensors of one module, by their last name."""

    path: str
    tensors: dict[str, TensorValues] = field(default_factory=dict)
    fit: InitializerFit | None = None
    untrained: bool | None = None

    @property
    def weight(self) -> TensorValues | None:
        """The weight, if it has at least two axes."""
        found = self.tensors.get("weight")
        return found if found is not None and len(found.shape) > 1 else None

    @property
    def recurrent_weight(self) -> TensorValues | None:
        """The weight of the hidden state of a recurrent layer, [gates, width]."""
        found = self.tensors.get("weight_hh_l0", self.tensors.get("weight_hh"))
        return found if found is not None and len(found.shape) == 2 else None

    @property
    def is_norm(self) -> bool:
        """Whether it is a normalization: its weight is a vector."""
        found = self.tensors.get("weight")
        return found is not None and len(found.shape) == 1 and "bias" in self.tensors

    @property
    def is_batch_norm(self) -> bool:
        """Whether it keeps running statistics."""
        return "running_var" in self.tensors

    @property
    def label(self) -> str:
        """Its path, for a sentence."""
        return self.path or "the model itself"


def layers_with_values(named: Mapping[str, TensorValues]) -> list[LayerValues]:
    """The modules of a state_dict, each with what its tensors' values fit."""
    found: dict[str, LayerValues] = {}
    for name, values in named.items():
        path, _, last = name.rpartition(".")
        found.setdefault(path, LayerValues(path)).tensors[last] = values
    for layer in found.values():
        _judge_layer(layer)
    return list(found.values())


def _judge_layer(layer: LayerValues) -> None:
    """Whether the layer is as its initializer left it; None where the values are too few to tell."""
    weight, bias = layer.weight, layer.tensors.get("bias")
    if weight is None:
        if layer.recurrent_weight is not None:
            _judge_recurrent(layer, layer.recurrent_weight.shape[1])
        elif layer.is_norm:
            layer.untrained = _untouched_norm(layer)
        return
    layer.fit = fitting_initializer(weight, weight.shape)
    if weight.count < LEAST:
        return
    layer.untrained = _is_untouched(layer.fit, weight, bias) if layer.fit is not None else False


def _judge_recurrent(layer: LayerValues, width: int) -> None:
    """Whether all weights of a recurrent layer are as torch draws them."""
    weights = [values for name, values in layer.tensors.items() if name.startswith("weight_")]
    if all(values.count < LEAST for values in weights):
        return
    fits = [fitting_initializer(values, values.shape, width=width) for values in weights if values.count >= LEAST]
    layer.fit, layer.untrained = fits[0], all(fit is not None for fit in fits)


def _is_untouched(fit: InitializerFit, weight: TensorValues, bias: TensorValues | None) -> bool | None:
    """Whether a weight that fits an initializer is as it left it; None where no bias says the same.

    Many bounds are in use, and a normal distribution has none: trained weights may look like one of them.
    """
    if fit.certain and fit.name.startswith("torch"):
        return bias is None or _untouched_bias(bias, weight)
    if bias is not None:
        return bias.is_constant(0.0)
    return True if fit.certain and weight.count >= LEAST_WITHOUT_BIAS else None


def _untouched_norm(layer: LayerValues) -> bool:
    ones, zeros = layer.tensors["weight"].is_constant(1.0), layer.tensors["bias"].is_constant(0.0)
    return ones and zeros


def _untouched_bias(bias: TensorValues, weight: TensorValues) -> bool:
    """Zeros, or within the bounds of torch's default for that fan-in."""
    if bias.is_constant(0.0):
        return True
    bound = 1 / math.sqrt(fans(weight.shape)[0]) * (1 + (4e-3 if bias.coarse else 1e-6))
    return bias.low is not None and bias.high is not None and -bound <= bias.low and bias.high <= bound


FileCheck = Callable[[Sequence[LayerValues]], Iterator[HealthFinding]]


def check_not_finite(layers: Sequence[LayerValues]) -> Iterator[HealthFinding]:
    """NaN and infinities: in a few tensors, or everywhere."""
    every = [(layer, last, values) for layer in layers for last, values in layer.tensors.items()]
    bad = [(f"{layer.path}.{last}".lstrip("."), values) for layer, last, values in every if values.nan or values.inf]
    if not bad:
        return
    names = tuple(name for name, _ in bad)
    nan, inf = sum(v.nan for _, v in bad), sum(v.inf for _, v in bad)
    counts = " and ".join(text for text in (f"{nan:,} NaN" if nan else "", f"{inf:,} infinite" if inf else "") if text)
    if len(bad) > max(2, 0.6 * len(every)):
        text = f"The run has diverged: {len(bad)} of {len(every)} tensors are not finite."
        yield HealthFinding("diverged", names, text, f"{counts} values")
    else:
        text = f"{listed_names(names)} {'has' if len(bad) == 1 else 'have'} values that are not finite."
        yield HealthFinding("not finite", names, text, f"{counts} values")


def check_untrained(layers: Sequence[LayerValues]) -> Iterator[HealthFinding]:
    """Layers that are as their initializer left them, where others are not; or all of them."""
    told = [layer for layer in layers if layer.untrained is not None]
    weights = [layer for layer in told if layer.weight is not None or layer.recurrent_weight is not None]
    left = [layer for layer in weights if layer.untrained]
    if not left:
        return
    names = tuple(layer.label for layer in left)
    fits = {layer.fit.name for layer in left if layer.fit is not None}
    least = min(layer.fit.p_value for layer in left if layer.fit is not None)
    evidence = f"{', '.join(sorted(fits))}; p >= {least:.2g}"
    if len(left) == len(weights):
        text = "No layer was ever trained: all weights are as their initializers left them."
    elif len(left) == 1 and weights and left[0] is weights[-1]:
        text = f"{names[0]}, the head, was never trained: its weights are as their initializer left them."
    else:
        were = "was" if len(left) == 1 else "were"
        text = f"{listed_names(names)} {were} never trained: the weights are as their initializers left them."
    yield HealthFinding("never trained", names, text, evidence)


def check_batch_norm(layers: Sequence[LayerValues]) -> Iterator[HealthFinding]:
    """Running statistics that no forward in training mode has touched; variances that collapsed."""
    norms = [layer for layer in layers if layer.is_batch_norm]
    weights = [layer for layer in layers if layer.weight is not None]
    trained = sum(layer.untrained is False for layer in weights) > len(weights) / 2
    still = [layer for layer in norms if _untouched_statistics(layer)]
    if still and trained:
        names = tuple(layer.label for layer in still)
        text = f"{listed_names(names)} never saw a batch in training mode: the running statistics are 0 and 1."
        yield HealthFinding("batch norm never trained", names, text, f"{len(still)} of {len(norms)} batch norms")
    for layer in norms:
        values = layer.tensors["running_var"]
        if values.rows is None or not values.count or values.nan:
            continue
        variances = numpy.sqrt(values.rows)
        collapsed = numpy.flatnonzero(variances <= COLLAPSED * max(float(variances.max()), 1e-30))
        if len(collapsed):
            channels = listed_names(map(str, collapsed.tolist()), 5)
            yield HealthFinding(
                "variance collapsed", (layer.label,),
                f"{layer.label}: the running variance of channel {channels} has collapsed: what comes in is constant.",
                f"{len(collapsed)} of {len(variances)} channels, largest variance {float(variances.max()):.2g}",
            )  # fmt: skip


def _untouched_statistics(layer: LayerValues) -> bool:
    mean, variance = layer.tensors.get("running_mean"), layer.tensors["running_var"]
    return mean is not None and mean.is_constant(0.0) and variance.is_constant(1.0)


def check_filters(layers: Sequence[LayerValues]) -> Iterator[HealthFinding]:
    """Outputs of a layer whose weights are next to nothing beside those of the others."""
    for layer in layers:
        weight = layer.weight
        if weight is None or weight.rows is None or len(weight.rows) < 4 or weight.nan or weight.inf:
            continue
        if "emb" in layer.path.lower():
            continue  # the row of a padding index is zero on purpose
        norms = numpy.sqrt(weight.rows)
        middle = float(numpy.median(norms))
        dead = numpy.flatnonzero(norms <= DEAD_FILTER * middle)
        if middle and len(dead):
            outputs = listed_names(map(str, dead.tolist()), 5)
            yield HealthFinding(
                "dead filters", (layer.label,), f"{layer.label}: output {outputs} has no weights left.",
                f"{len(dead)} of {len(norms)} outputs, median norm {middle:.2g}",
            )  # fmt: skip


def check_size(layers: Sequence[LayerValues]) -> Iterator[HealthFinding]:
    """Weights that are huge, or next to nothing, in units of what keeps activations as they are."""
    sizes = {
        layer.label: layer.weight.rms * math.sqrt(fans(layer.weight.shape)[0])
        for layer in layers
        if layer.weight is not None and layer.weight.rms is not None and "emb" not in layer.path.lower()
    }
    huge = [name for name, size in sizes.items() if size > EXPLODED]
    if sizes and len(huge) >= max(1, len(sizes) / 2):
        text = f"The weights of {listed_names(huge)} are huge: steps were too large for long."
        most = max(sizes.values())
        yield HealthFinding("exploding step", tuple(huge), text, f"up to {most:.3g} / sqrt(fan-in); 1 is usual")
    tiny = [name for name, size in sizes.items() if size < 1e-3]
    if sizes and len(tiny) >= max(1, len(sizes) / 2):
        text = f"The weights of {listed_names(tiny)} have shrunk to nothing."
        yield HealthFinding("weights collapsed", tuple(tiny), text, f"down to {min(sizes.values()):.2g} / sqrt(fan-in)")


FILE_CHECKS: tuple[FileCheck, ...] = (check_not_finite, check_untrained, check_batch_norm, check_filters, check_size)
