"""Which rule costs which operator: the registry that formula files and users fill.

To add the formula of an operator, follow the recipe in `modelprobe guide architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor
from torch._ops import HigherOrderOperator

from modelprobe.errors import BadInput


class Cost(NamedTuple):
    """What one call costs. `macs` are multiply-accumulates; `flops` the arithmetic beside them.

    `read` and `written` are bytes where they differ from "every operand once, every result once"
    (a lookup reads rows, not the table); None means that they do not differ.
    """

    macs: int = 0
    flops: int = 0
    read: int | None = None
    written: int | None = None


LATER = {
    "backward": "backward",
    "mkldnn_rnn_layer": "backward",
    "ctc_loss": "losses",
    "multi_margin": "losses",
    "multilabel_margin": "losses",
    "linear_cross_entropy": "losses",
    "quant": "quantised",
    "bitsandbytes": "quantised",
    "fft_": "fourier",
    "torchvision::": "vision",
}
"""Part of an operator's name -> the module with its rule, imported when such an operator is first met."""

_OWN_RULES = "modelprobe.tracing.formulas."

Formula = Callable[..., "Cost | int"]
F = TypeVar("F", bound=Formula)


class Rule(NamedTuple):
    """How an operator is costed: its kind, its formula (None: it costs nothing) and its status."""

    kind: str
    formula: Formula | None
    status: Literal["counted", "free"]


RULES: dict[str, Rule] = {}
"""Operator name without overload (`aten::conv2d`) -> rule. Filled at import and by `formula`."""


def formula(*operators: Any, kind: str = "custom") -> Callable[[F], F]:
    """Register the decorated function as the cost of `operators`.

    `operators` are `torch.ops.namespace.name`, one of its overloads, or the text `"namespace::name"`.
    The function is called as `function(*args, out=result, **kwargs)` with the operator's own arguments (tensors
    included, on whatever device the recording runs; read their shapes, not their values) and returns MACs as an
    int, or a `Cost`. Raises BadInput when an operator has a formula already, or is no operator.
    """

    def register(function: F) -> F:
        for operator in operators:
            name = operator_name(operator)
            if not function.__module__.startswith(_OWN_RULES):  # of ours the second to be imported finds the first
                _load_rules_of(name)
            if name in RULES:
                raise BadInput(f"operator {name} has a formula already", "register a formula once per operator")
            RULES[name] = Rule(kind, function, "counted")
        return function

    return register


def free(kind: str, *names: str) -> None:
    """Register aten operators that move, view or create data and do no arithmetic on it."""
    for name in names:
        qualified = name if "::" in name else f"aten::{name}"
        if qualified in RULES:
            raise BadInput(f"operator {qualified} has a formula already", "register a formula once per operator")
        RULES[qualified] = Rule(kind, None, "free")


def operator_name(operator: Any) -> str:
    """`namespace::name` of an operator, an overload, or that text itself. Raises BadInput for anything else."""
    if isinstance(operator, str) and "::" in operator:
        return operator
    schema = getattr(operator, "_schema", None)
    if schema is not None:
        return str(schema.name)
    qualified = getattr(operator, "_qualified_op_name", None)
    if isinstance(qualified, str):
        return qualified
    if isinstance(operator, HigherOrderOperator):
        return f"higher_order::{operator.__name__}"
    raise BadInput(
        f"{operator!r} is no operator",
        "name one as torch.ops.namespace.name, or as the text 'namespace::name'",
    )


_COMPLEX_FACTORS = {"mul": 6, "multiply": 6, "square": 6, "div": 11, "divide": 11, "reciprocal": 11, "abs": 4}


def in_real_numbers(cost: Cost, name: str, kind: str, arguments: Sequence[Any]) -> Cost:
    """The cost of an operator on complex numbers, in operations on real ones.

    A MAC is four real ones. A sum is 2 operations, a product 6 (four products, two sums), a quotient 11 (the product
    with the conjugate, the squared modulus, two divisions), a modulus 4; other elementwise work counts twice, also a
    product with a real number and a quotient by one. Fourier transforms are stated in real operations already.
    """
    if kind == "transform":
        return cost
    plain = name.removeprefix("aten.").rstrip("_")
    factor = _COMPLEX_FACTORS.get(plain, 2)
    if factor > 4 and _is_scaled(plain, arguments):
        factor = 2
    return cost._replace(macs=4 * cost.macs, flops=factor * cost.flops)


def _is_scaled(name: str, arguments: Sequence[Any]) -> bool:
    """Whether complex numbers are multiplied with real ones, or divided by some."""
    real = [
        not (value.is_complex() if isinstance(value, Tensor) else isinstance(value, complex)) for value in arguments[:2]
    ]
    return len(real) == 2 and (real[1] if name.startswith("div") else any(real))


def rule_for(name: str) -> Rule | None:
    """The rule of an operator, the in-place and out variants sharing that of the plain one."""
    _load_rules_of(name)
    found = RULES.get(name)
    if found is None and name.startswith("prims::"):  # what torch's own decompositions are written in
        found = rule_for(f"aten::{name.removeprefix('prims::')}")
    if found is None and name.endswith("_") and not name.endswith("__"):
        found = RULES.get(name[:-1])
    return found


def _load_rules_of(name: str) -> None:
    for part, module in LATER.items():
        if part in name:
            import_module(f"modelprobe.tracing.formulas.{module}")
