"""Which polynomial goes through these whole numbers? Exact, by finite differences, and proven on points left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

DEGREE = 4
"""Of the side of an image: tokens grow with its square, attention with the square of that."""


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
        terms = [_term(c, i) for i, c in reversed(list(enumerate(self.coefficients))) if c]
        text = " + ".join(terms) or "0"
        return text.replace("+ -", "- ")


def _term(coefficient: Fraction, power: int) -> str:
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
        basis = _times(basis, -Fraction(first + j) / (j + 1), Fraction(1, j + 1))
    while len(total) > 1 and not total[-1]:
        total.pop()
    return Polynomial(tuple(total))


def _times(basis: Sequence[Fraction], constant: Fraction, slope: Fraction) -> list[Fraction]:
    """`basis` times (constant + slope n)."""
    product = [Fraction(0)] * (len(basis) + 1)
    for i, coefficient in enumerate(basis):
        product[i] += coefficient * constant
        product[i + 1] += coefficient * slope
    return product


def find(first: int, value: Callable[[int], Sequence[int]], known: Mapping[int, Sequence[int]]) -> list[Polynomial]:
    """The polynomials in n of every entry of `value(n)`, recovered from n = first, first + 1, …; or none.

    They are proven on at least one n that was not used to find them, and on all that are `known`; of degree `DEGREE`
    at most. `value` is called for as few n as will do.
    """
    rows = [value(first + i) for i in range(3)]
    for used in range(3, DEGREE + 2):
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
