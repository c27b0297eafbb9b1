"""Operators that compute several gradients at once: what each of their results costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from modelprobe.tracing.formulas.registry import Cost, formula, operator_name

PerOutputCosts = Callable[..., Sequence[Cost]]
S = TypeVar("S", bound=PerOutputCosts)

PER_OUTPUT_COSTS: dict[str, PerOutputCosts] = {}
"""Operator name -> the cost of each of its results, in their order. Filled at import by `per_output_formula`."""


def per_output_formula(*operators: str, kind: str) -> Callable[[S], S]:
    """Register the decorated function as the cost of each result of `operators`; an operator costs their sum.

    It is called as a formula is, and returns a `Cost` for every result. What several results need is part of the
    first of them that is wanted. Raises BadInput when an operator has a formula already.
    """

    def register(function: S) -> S:
        def total(*args: Any, out: Any, **kwargs: Any) -> Cost:
            return added(function(*args, out=out, **kwargs))

        formula(*operators, kind=kind)(total)
        PER_OUTPUT_COSTS.update((operator_name(operator), function) for operator in operators)
        return function

    return register


def added(costs: Sequence[Cost]) -> Cost:
    """The sum of MACs and FLOPs."""
    return Cost(sum(cost.macs for cost in costs), sum(cost.flops for cost in costs))
