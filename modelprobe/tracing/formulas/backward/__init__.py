"""What the operators of a backward pass cost. Importing this package registers every rule for them.

An operator that autograd spells with ordinary ones (a product's gradients are two products) needs no rule of its own.
The others have names that end in `_backward` and stand here, each with the derivative that it computes. FLOPs are
meant as in `elementwise`: one for an operation, a comparison or the evaluation of an elementary function.
"""

from modelprobe.tracing.formulas.backward import (
    attention,
    contractions,
    elementwise,
    indexing,
    normalisation,
    pooling,
    recurrent,
    vision,
)

__all__ = [
    "attention",
    "contractions",
    "elementwise",
    "indexing",
    "normalisation",
    "pooling",
    "recurrent",
    "vision",
]
