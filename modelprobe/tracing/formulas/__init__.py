"""What each operator costs. Importing this package registers every rule that modelprobe has."""

from modelprobe.tracing.formulas import (
    attention,
    contractions,
    convolution,
    elementwise,
    fourier,
    indexing,
    linalg,
    moves,
    normalisation,
    pooling,
    quantised,
    recurrent,
    sorting,
    vision,
)
from modelprobe.tracing.formulas.registry import RULES, Cost, Rule, formula, in_real_numbers, operator_name, rule_for

__all__ = [
    "RULES",
    "Cost",
    "Rule",
    "attention",
    "contractions",
    "convolution",
    "elementwise",
    "formula",
    "fourier",
    "in_real_numbers",
    "indexing",
    "linalg",
    "moves",
    "normalisation",
    "operator_name",
    "pooling",
    "quantised",
    "recurrent",
    "rule_for",
    "sorting",
    "vision",
]
