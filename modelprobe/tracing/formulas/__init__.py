"""What each operator costs. Importing this package registers the common rules; `registry.LATER` names the others."""

from modelprobe.tracing.formulas import (
    attention,
    contractions,
    convolution,
    elementwise,
    indexing,
    linalg,
    moves,
    normalisation,
    pooling,
    recurrent,
    sorting,
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
    "in_real_numbers",
    "indexing",
    "linalg",
    "moves",
    "normalisation",
    "operator_name",
    "pooling",
    "recurrent",
    "rule_for",
    "sorting",
]
