"""The cost of an `einsum` by the report of numpy's path finder, which is where fvcore reads its figure.

Facts: numpy 2, `numpy.einsum_path(..., optimize="optimal")`: a contraction of n operands costs the product of all its
indices, times n - 1, and once more when an index is summed; the report adds 1 and prints four significant digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from modelprobe.tracing.records import Shape, numel

# Equations with a formula of their own in fvcore, up to the names of the indices.
_EXACT = ("abc,abd->acd", "abc,adc->adb")


def contraction_macs(equation: str, shapes: Sequence[Shape]) -> float:
    """Half of the FLOPs of the cheapest order of contraction, as printed, rounded down."""
    plain = _canonical_letters(equation.replace(" ", ""))
    if plain in _EXACT:
        return numel(shapes[0]) * (shapes[1][-1] if plain == _EXACT[0] else shapes[1][1])
    terms, result, sizes = _parsed(plain, shapes)
    if len(terms) < 3 or frozenset().union(*terms) == result:
        flops = _one_contraction(terms, result, sizes)
    else:
        flops = _cheapest(tuple(terms), result, sizes)
    return float(math.floor(float(f"{flops + 1:.3e}") / 2))


def _canonical_letters(equation: str) -> str:
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    return equation.translate({ord(letter): 97 + index for index, letter in enumerate(letters)})


def _parsed(equation: str, shapes: Sequence[Shape]) -> tuple[list[frozenset[str]], frozenset[str], Mapping[str, int]]:
    """Index sets of the operands and of the result, and the size of every index."""
    inputs, arrow, output = equation.partition("->")
    sizes: dict[str, int] = {}
    terms = []
    for term, shape in zip(inputs.split(","), shapes, strict=True):
        spare = len(shape) - len(term.replace("...", ""))
        # The dimensions of an ellipsis align at the end: they are numbered from there.
        names = [*term.replace("...", ".")]
        letters = [
            name for part in names for name in ([f".{i}" for i in range(spare, 0, -1)] if part == "." else [part])
        ]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
        terms.append(frozenset(letters))
    dots = {letter for letter in sizes if letter.startswith(".")}
    if not arrow:
        output = "".join(letter for letter in sizes if inputs.count(letter) == 1 and letter not in dots)
    kept = dots if not arrow or "..." in output else set()
    return terms, frozenset(output.replace(".", "")) | kept, sizes


def _one_contraction(terms: Sequence[frozenset[str]], kept: frozenset[str], sizes: Mapping[str, int]) -> int:
    indices = frozenset().union(*terms)
    return math.prod(sizes[i] for i in indices) * (max(1, len(terms) - 1) + bool(indices - kept))


def _cheapest(terms: tuple[frozenset[str], ...], result: frozenset[str], sizes: Mapping[str, int]) -> int:
    """The least total over all orders of contracting two operands at a time."""
    if len(terms) == 1:
        return 0
    best = None
    for pair in combinations(range(len(terms)), 2):
        rest = tuple(term for index, term in enumerate(terms) if index not in pair)
        both = (terms[pair[0]], terms[pair[1]])
        kept = (both[0] | both[1]) & frozenset().union(result, *rest)
        total = _one_contraction(both, kept, sizes) + _cheapest((*rest, kept), result, sizes)
        best = total if best is None else min(best, total)
    return best or 0
