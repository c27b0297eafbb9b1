"""Which initializer a tensor's values fit: the bounds and a Kolmogorov-Smirnov test against each that is in use.

Bounds and deviations: torch.nn.init; Glorot and Bengio (2010), He et al. (2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from modelprobe.inside.health.file_values import TensorValues

TORCHS_DEFAULT = "torch's default, uniform"

LEAST = 32
"""Elements below which a tensor is too small to tell."""

LEAST_NORMAL = 256

ACCEPTED = 1e-3
"""p-value from which a sample is held for one of a uniform distribution, whose bounds say more."""

ACCEPTED_NORMAL = 0.02


@dataclass(frozen=True, slots=True)
class InitializerFit:
    """An initializer whose values look like a tensor's: its name, bound (uniform) or deviation (normal), p-value.

    `certain`: the bounds of a uniform distribution are kept and reached, which trained values do not do.
    """

    name: str
    scale: float
    p_value: float
    certain: bool


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """fan-in and fan-out of a weight, as `torch.nn.init` counts them."""
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _uniform(fan_in: int, fan_out: int) -> Iterator[tuple[str, float]]:
    yield TORCHS_DEFAULT, 1 / math.sqrt(fan_in)
    yield "He uniform", math.sqrt(6 / fan_in)
    yield "Xavier uniform", math.sqrt(6 / (fan_in + fan_out))
    yield "LeCun uniform", math.sqrt(3 / fan_in)


def _normal(fan_in: int, fan_out: int) -> Iterator[tuple[str, float]]:
    yield "He normal, fan-out", math.sqrt(2 / fan_out)
    yield "He normal, fan-in", math.sqrt(2 / fan_in)
    yield "Xavier normal", math.sqrt(2 / (fan_in + fan_out))
    yield "LeCun normal", 1 / math.sqrt(fan_in)
    yield "normal 0.02", 0.02
    yield "normal 0.01", 0.01
    yield "normal 1", 1.0


def fitting_initializer(
    values: TensorValues, shape: tuple[int, ...], fan_in: int = 0, width: int = 0
) -> InitializerFit | None:
    """The initializer that the values look like, or None. `fan_in` is that of the weight beside a bias.

    `width` is that of the hidden state of a recurrent layer, by which torch draws all of its parameters.
    """
    if values.count < LEAST or values.low is None or values.high is None or values.nan or values.inf:
        return None
    if width:
        return _fits_uniform(values, TORCHS_DEFAULT, 1 / math.sqrt(width))
    ins, outs = fans(shape) if len(shape) > 1 else (fan_in, fan_in)
    if not ins or not outs:
        return None
    for name, bound in _uniform(ins, outs):
        if len(shape) == 1 and not name.startswith("torch"):
            break
        fit = _fits_uniform(values, name, bound)
        if fit is not None:
            return fit
    if len(shape) == 1 or values.count < LEAST_NORMAL:
        return None
    return next((fit for fit in (_fits_normal(values, *pair) for pair in _normal(ins, outs)) if fit), None)


def _fits_uniform(values: TensorValues, name: str, bound: float) -> InitializerFit | None:
    assert values.low is not None
    assert values.high is not None
    room = bound * (4e-3 if values.coarse else 1e-6)
    reach = max(-values.low, values.high)
    # Of n uniform values the largest lies below 1 - 12/n of the bound once in e^12 times.
    if reach > bound + room or reach < bound * (1 - 12 / values.count) - room:
        return None
    sample = numpy.sort(values.sample.astype(numpy.float64))
    p = ks_p_value(numpy.clip((sample + bound) / (2 * bound), 0, 1))
    return InitializerFit(name, bound, p, True) if p >= ACCEPTED else None


def _fits_normal(values: TensorValues, name: str, std: float) -> InitializerFit | None:
    if values.std is None or values.mean is None:
        return None
    n = values.count
    if abs(values.std / std - 1) > 2 / math.sqrt(2 * n) or abs(values.mean) > 3 * std / math.sqrt(n):
        return None
    sample = numpy.sort(values.sample.astype(numpy.float64)) / (std * math.sqrt(2))
    p = ks_p_value(0.5 * (1 + numpy.array([math.erf(x) for x in sample])))
    return InitializerFit(name, std, p, False) if p >= ACCEPTED_NORMAL else None


def ks_p_value(levels: numpy.ndarray[tuple[int], numpy.dtype[numpy.float64]]) -> float:
    """p-value of the Kolmogorov-Smirnov test; `levels` is the cumulative distribution at the sorted sample."""
    n = len(levels)
    steps = numpy.arange(n + 1) / n
    apart = max(float((steps[1:] - levels).max()), float((levels - steps[:-1]).max()))
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * apart
    if x < 0.2:
        return 1.0
    total: float = 2 * sum((-1.0) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, total))
