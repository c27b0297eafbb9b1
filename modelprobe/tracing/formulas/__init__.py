"""What each operator costs. Importing this package registers every rule that modelprobe has."""

from modelprobe.tracing.formulas import (
    attention,
    contractions,
    convolution,
    elementwise,
    moves,
    normalisation,
    pooling,
    recurrent,
    vision,
)
from modelprobe.tracing.formulas.registry import RULES, Cost, Rule, formula, rule_for

__all__ = [
    "RULES",
    "Cost",
    "Rule",
    "attention",
    "contractions",
    "convolution",
    "elementwise",
    "formula",
    "moves",
    "normalisation",
    "pooling",
    "recurrent",
    "rule_for",
    "vision",
]
