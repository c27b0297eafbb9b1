"""Exact polynomials through whole numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelprobe.cost.scaling.law import Polynomial, crossover, fit_least_degree, through

COEFFICIENTS = st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=5)


@pytest.mark.zoo
@given(COEFFICIENTS, st.integers(0, 1000))
def test_recovers_any_polynomial(coefficients: list[int], first: int) -> None:
    law = Polynomial(tuple(map(Fraction, coefficients)))
    found = fit_least_degree(first, lambda n: [int(law(n)), 7], {})
    assert [found[0](n) for n in (0, first + 9, 10**6)] == [law(n) for n in (0, first + 9, 10**6)]
    assert found[0].degree == law.degree
    assert str(found[1]) == "7"


def test_half_of_a_square() -> None:
    # n (n + 1) / 2: whole at whole n, its coefficients are not
    assert str(through(3, [6, 10, 15])) == "1/2 n^2 + 1/2 n"


def test_what_is_no_polynomial_has_none() -> None:
    assert fit_least_degree(1, lambda n: [2**n], {}) == []
    assert fit_least_degree(1, lambda n: [n // 2], {}) == []


def test_a_known_point_that_does_not_fit_refutes() -> None:
    def padded(n: int) -> list[int]:
        return [n * n if n < 20 else n * n + 1]

    assert str(fit_least_degree(1, padded, {})[0]) == "n^2"
    assert fit_least_degree(1, padded, {30: padded(30)}) == []


def test_as_few_values_as_will_do() -> None:
    asked: list[int] = []

    def line(n: int) -> list[int]:
        asked.append(n)
        return [5 * n + 1]

    assert str(fit_least_degree(4, line, {})[0]) == "5 n + 1"
    assert asked == [4, 5, 6, 7]  # three to find it, one to prove it


@pytest.mark.parametrize(("last", "expected"), [(10, None), (1000, 13)])
def test_crossover(last: int, expected: int | None) -> None:
    # n^2 > 12 n + 1 from 13 on: 169 > 157, 144 < 145
    square, line = Polynomial((Fraction(0), Fraction(0), Fraction(1))), Polynomial((Fraction(1), Fraction(12)))
    assert crossover(square, line, 1, last) == expected
    assert crossover(line, Polynomial((Fraction(0),)), 2, last) == 2
