"""The exact polynomial by which MACs grow with a size or a batch, and the size from which attention dominates.

Polynomials are fitted by finite differences on whole numbers and verified on points that were not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.tracing.records import Trace

MAX_DEGREE = 4
"""Of the side of an image: tokens grow with its square, attention with the square of that."""

IMAGE_STEPS = (14, 16, 32, 64, 224)
"""Patches and strides of common backbones, and 7 windows of stride 32: within a step, padding and rounding break a
polynomial."""

MAX_CROSSOVER_SIZE = 2**16
"""The size up to which a crossover is looked for."""

Measure = Callable[[int], tuple[int, int]]
"""A size -> MACs and attention MACs there."""


@dataclass(frozen=True, slots=True)
class Polynomial:
    """`coefficients[i]` belongs to n**i; exact rational numbers."""

    coefficients: tuple[Fraction, ...]

    def __call__(self, n: int) -> Fraction:
        """The value at n."""
        total = Fraction(0)
        for coefficient in reversed(self.coefficients):
            total = total * n + coefficient
        return total

    @property
    def degree(self) -> int:
        """The highest power, 0 for a constant."""
        return max((i for i, coefficient in enumerate(self.coefficients) if coefficient), default=0)

    def __str__(self) -> str:
        terms = [_term_text(c, i) for i, c in reversed(list(enumerate(self.coefficients))) if c]
        text = " + ".join(terms) or "0"
        return text.replace("+ -", "- ")


def _term_text(coefficient: Fraction, power: int) -> str:
    number = f"{coefficient.numerator:,}"
    if coefficient.denominator != 1:
        number += f"/{coefficient.denominator:,}"
    variable = "" if power == 0 else "n" if power == 1 else f"n^{power}"
    return variable if variable and number == "1" else f"{number} {variable}".rstrip()


def through(first: int, values: Sequence[int]) -> Polynomial:
    """The polynomial of least degree with p(first + i) = values[i], by Newton's forward differences."""
    differences, row = [], [Fraction(value) for value in values]
    while row:
        differences.append(row[0])
        row = [after - before for before, after in pairwise(row)]
    # sum of differences[j] * binomial(n - first, j), multiplied out
    total, basis = [Fraction(0)] * len(values), [Fraction(1)]
    for j, difference in enumerate(differences):
        for i, coefficient in enumerate(basis):
            total[i] += difference * coefficient
        basis = _times_linear(basis, -Fraction(first + j) / (j + 1), Fraction(1, j + 1))
    while len(total) > 1 and not total[-1]:
        total.pop()
    return Polynomial(tuple(total))


def _times_linear(basis: Sequence[Fraction], constant: Fraction, slope: Fraction) -> list[Fraction]:
    """`basis` times (constant + slope n)."""
    product = [Fraction(0)] * (len(basis) + 1)
    for i, coefficient in enumerate(basis):
        product[i] += coefficient * constant
        product[i + 1] += coefficient * slope
    return product


def fit_least_degree(
    first: int, value: Callable[[int], Sequence[int]], known: Mapping[int, Sequence[int]]
) -> list[Polynomial]:
    """The polynomials in n of every entry of `value(n)`, recovered from n = first, first + 1, …; or none.

    They are verified on at least one n that was not used to fit them, and on all that are `known`; of degree
    `MAX_DEGREE` at most. `value` is called for as few n as will do.
    """
    rows = [value(first + i) for i in range(3)]
    for used in range(3, MAX_DEGREE + 2):
        rows.append(value(first + used))
        found = [through(first, [row[entry] for row in rows[:used]]) for entry in range(len(rows[0]))]
        proof = {first + used: rows[used], **known}
        if all(law(n) == row[entry] for n, row in proof.items() for entry, law in enumerate(found)):
            return found
    return []


def crossover(above: Polynomial, below: Polynomial, first: int, last: int) -> int | None:
    """The least n from `first` to `last` from where `above` exceeds `below` for good; None when it does not by then."""

    def exceeds(n: int) -> bool:
        return above(n) > below(n)

    if not exceeds(last):
        return None
    low, high = first - 1, last  # exceeds(high); low is below or out of range
    if exceeds(first):
        return first
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class CostPolynomial:
    """MACs as a polynomial in n, where `variable` = `step` x n + `offset`, for every n from the smallest point on.

    `macs` and `attention_macs` are its coefficients from n**0 up, exact fractions as text. `found_at` are the sizes
    from which it was recovered, `proven_at` those that were run as well and that it meets exactly.
    """

    variable: str
    step: int
    offset: int
    macs: tuple[str, ...]
    attention_macs: tuple[str, ...]
    found_at: tuple[int, ...]
    proven_at: tuple[int, ...]

    @property
    def n(self) -> str:
        """What n is: `size / 32`."""
        if (self.step, self.offset) == (1, 0):
            return self.variable
        above = f"({self.variable} - {self.offset})" if self.offset else self.variable
        return above if self.step == 1 else f"{above} / {self.step}"

    def polynomial(self, coefficients: Sequence[str]) -> Polynomial:
        """One of the two, to compute with."""
        return Polynomial(tuple(map(Fraction, coefficients)))

    def path(self, coefficients: Sequence[str], last: float, most: int = 200) -> list[tuple[float, float]]:
        """(size, MACs) from the smallest point to `last`, `most` sizes at most: a line to draw."""
        law = self.polynomial(coefficients)
        ns = range((self.found_at[0] - self.offset) // self.step, (int(last) - self.offset) // self.step + 1)
        return [(float(self.step * n + self.offset), float(law(n))) for n in ns[:: max(1, len(ns) // most)]]


@dataclass(frozen=True, slots=True)
class Crossover:
    """The smallest size from which attention costs more than everything else; `verified` by runs there and before."""

    size: int
    macs: int
    attention_macs: int
    verified: bool


def attention_macs(trace: Trace) -> int:
    """MACs between activations: attention operators, and matrix products of which no operand is a weight.

    They grow with the square of the number of positions. A weight is recognised by its memory, so its views count
    as the weight.
    """
    weights = {entry.path for entry in trace.tree.state}
    values = {value for value, name in trace.named.items() if name in weights}
    storages = {ref.storage for op in trace.ops for ref in op.inputs if ref.value in values}
    return sum(
        op.macs
        for op in trace.ops
        if op.kind == "attention" or (op.kind == "matmul" and not any(ref.storage in storages for ref in op.inputs))
    )


def fit_polynomial(variable: str, known: Mapping[int, tuple[int, int]], measure: Measure) -> CostPolynomial | None:
    """The polynomial through the `known` points, fitted and verified on a few more; None where there is no polynomial.

    Steps are tried from the finest, which promises most, to the coarsest. A size that the model refuses ends a step.
    """
    asked = dict(known)

    def value(size: int) -> tuple[int, int]:
        if size not in asked:
            asked[size] = measure(size)
        return asked[size]

    return next(
        filter(None, (_fit_with_step(variable, step, known, value) for step in _step_sizes(variable, sorted(known)))),
        None,
    )


def _fit_with_step(
    variable: str, step: int, known: Mapping[int, tuple[int, int]], measure: Measure
) -> CostPolynomial | None:
    """The polynomial over sizes `step` apart."""
    start = min(known)
    offset = start % step
    inside = {(size - offset) // step: row for size, row in known.items() if (size - offset) % step == 0}
    if 2 * len(inside) <= len(known) and len(known) > 1:
        return None  # it would be silent on most of what was asked for
    used: list[int] = []

    def at(n: int) -> tuple[int, int]:
        used.append(step * n + offset)
        return measure(step * n + offset)

    try:
        found = fit_least_degree(start // step, at, inside)
    except (BadInput, ModelRaised):
        return None
    recovered_from = used.copy()
    far = _far_points(start // step, at) if found else {}
    if not found or any([law(n) for law in found] != list(row) for n, row in far.items()):
        return None
    texts = [tuple(str(c) for c in law.coefficients) for law in found]
    *found_at, proof = recovered_from
    proven_at = {proof, *(step * n + offset for n in (*inside, *far))} - set(found_at)
    return CostPolynomial(variable, step, offset, texts[0], texts[1], tuple(found_at), tuple(sorted(proven_at)))


def _far_points(first: int, value: Measure) -> dict[int, tuple[int, int]]:
    """Points at about two and three times the first: what rounds or pads looks like a polynomial close by.

    What the model refuses (a table of positions ends) is left out.
    """
    found = {}
    for n in (2 * first + 1, 3 * first + 2):
        with suppress(BadInput, ModelRaised):
            found[n] = value(n)
    return found


def _step_sizes(variable: str, sizes: Sequence[int]) -> list[int]:
    if variable == "batch":
        return [1]
    own = math.gcd(*(b - a for a, b in pairwise(sizes)))
    return sorted({1, *([own] if own else []), *(IMAGE_STEPS if min(sizes) >= 32 else ())})


def find_crossover(law: CostPolynomial, measure: Measure) -> Crossover | None:
    """Where attention dominates by `law`, checked by recording that size and the one before."""
    total, attention = law.polynomial(law.macs), law.polynomial(law.attention_macs)
    doubled = Polynomial(tuple(2 * c for c in attention.coefficients))
    first, last = (law.found_at[0] - law.offset) // law.step, (MAX_CROSSOVER_SIZE - law.offset) // law.step
    n = crossover(doubled, total, first, last)
    if n is None:
        return None
    size = law.step * n + law.offset
    found = Crossover(size, int(total(n)), int(attention(n)), verified=False)
    try:
        here, before = measure(size), measure(size - law.step) if n > first else (1, 0)
    except (BadInput, ModelRaised):
        return found
    meets = here == (found.macs, found.attention_macs) and 2 * before[1] <= before[0]
    return Crossover(found.size, found.macs, found.attention_macs, meets)
