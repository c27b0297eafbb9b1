"""The spectrum of a weight: its stable rank, and a power law in the tail of its eigenvalues where one fits.

A. Clauset, C. Shalizi, M. Newman, Power-law distributions in empirical data, SIAM Review 51(4), 2009: the exponent by
maximum likelihood, the start of the tail by the least Kolmogorov-Smirnov distance, its goodness of fit by a bootstrap.
Eigenvalues are those of W W^T; of a convolution W is [out, in x field].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

MOST_SIDE, MOST_VALUES = 4096, 1 << 26
"""The smaller side, and the elements, of a weight whose spectrum is computed."""

LEAST_EIGENVALUES, LEAST_TAIL = 50, 20
CANDIDATES, REPEATS = 40, 200
REFUSED = 0.1
"""p-value below which the tail is no power law, as Clauset et al. have it."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The stable rank ||W||_F^2 / ||W||_2^2, from 1 to the rank, and the power law of the largest eigenvalues.

    `exponent` is None where none fits (`p_value` says how badly) or there are too few eigenvalues to tell.
    """

    stable_rank: float
    exponent: float | None = None
    p_value: float | None = None


def spectrum_of(weight: Any, seed: int = 0) -> Spectrum | None:
    """The spectrum of a weight [out, ...]; None for one that is zero, not finite or too large."""
    matrix = weight.reshape(weight.shape[0], -1)
    if min(matrix.shape) > MOST_SIDE or matrix.size > MOST_VALUES or not numpy.isfinite(matrix).all():
        return None
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide.astype(numpy.float64)
    values = numpy.linalg.eigvalsh(wide @ wide.T)
    largest = float(values[-1]) if values.size else 0.0
    if largest <= 0:
        return None
    rank = float(values.clip(0).sum()) / largest
    kept = values[values > largest * 1e-12]
    if kept.size < LEAST_EIGENVALUES:
        return Spectrum(rank)
    exponent, start, distance = _fitted(kept)
    p = _goodness(kept, exponent, start, distance, seed)
    return Spectrum(rank, exponent if p >= REFUSED else None, p)


def _fitted(values: Any) -> tuple[float, int, float]:
    """Exponent, index at which the tail begins, and distance, of sorted values."""
    count = values.size
    places = numpy.unique(numpy.linspace(0, count - LEAST_TAIL, CANDIDATES).astype(int))
    logs = numpy.log(values)
    behind = numpy.cumsum(logs[::-1])[::-1]
    best = (0.0, 0, numpy.inf)
    for place in places.tolist():
        tail = count - place
        total = behind[place] - tail * logs[place]
        if total <= 0:
            continue
        exponent = 1 + tail / total
        below = 1 - numpy.exp((1 - exponent) * (logs[place:] - logs[place]))
        steps = numpy.arange(tail + 1) / tail
        distance = max(float((steps[1:] - below).max()), float((below - steps[:-1]).max()))
        if distance < best[2]:
            best = (float(exponent), place, distance)
    return best


def _goodness(values: Any, exponent: float, start: int, distance: float, seed: int) -> float:
    """Share of samples of the fitted law, with the body as it is, whose own fit is farther away."""
    drawn = numpy.random.default_rng(seed)
    count, least = values.size, values[start]
    worse = 0
    for _ in range(REPEATS):
        tail = int(drawn.binomial(count, (count - start) / count))
        law = least * (1 - drawn.random(tail)) ** (1 / (1 - exponent))
        body = drawn.choice(values[:start], count - tail) if start else law[:0]
        worse += _fitted(numpy.sort(numpy.concatenate([body, law])))[2] >= distance
    return worse / REPEATS
