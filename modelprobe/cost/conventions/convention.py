"""What a counting tool charges for a forward pass: the records that every convention returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from modelprobe.tracing.records import OpCall, Trace


class Charge(NamedTuple):
    """An amount that the tool counts at one place. `name` is the operator, class or function that it looks at.

    `op` is the index of the operator call in the ledger, -1 when the tool looks at a module as a whole. `amount` is
    in the tool's own unit, `activations` in elements.
    """

    name: str
    kind: str
    module: str
    call: int
    op: int
    amount: float
    activations: int = 0


@dataclass(frozen=True)
class Count:
    """Everything that one tool counts of one forward pass. `notes` are what a person has to know to repeat it."""

    charges: tuple[Charge, ...]
    total: int
    notes: tuple[str, ...] = ()

    @cached_property
    def activations(self) -> int:
        """Elements put out by the operators that the tool calls activations; 0 for tools that do not count them."""
        return sum(charge.activations for charge in self.charges)

    def by(self, key: Callable[[Charge], str]) -> dict[str, float]:
        """The amounts added up by `key`, in the order of first appearance."""
        found: dict[str, float] = {}
        for charge in self.charges:
            found[key(charge)] = found.get(key(charge), 0) + charge.amount
        return found


@dataclass(frozen=True, slots=True)
class Convention:
    """How one tool counts: a pure function of the ledger.

    `amount` is what the tool calls its figure, `per_mac` how much of it one multiply-accumulate is. `follows` names
    the tool and the version whose rules these are, `blind` what it cannot see in any model. `functions` says that the
    ledger has to hold function calls, `activations` that the tool counts them. `more` and `less` say in a few words, by
    kind of operator, what the tool adds to the multiply-accumulates and why it counts fewer. `live` is what the tool
    says of the model as it stands, where published figures were made under other settings.
    """

    name: str
    amount: str
    per_mac: int
    follows: str
    blind: str
    count: Callable[[Trace], Count]
    functions: bool = False
    activations: bool = False
    more: Mapping[str, str] = field(default_factory=dict)
    less: Mapping[str, str] = field(default_factory=dict)
    live: Callable[[Trace], Count] | None = None

    def predict(self, trace: Trace) -> Count:
        """What the tool itself will say when it is asked about the model as it stands."""
        return (self.live or self.count)(trace)


def charged(index: int, op: OpCall, amount: float, activations: int = 0, name: str = "") -> Charge:
    """A charge for one operator call."""
    return Charge(name or op.name, op.kind, op.module, op.call, index, amount, activations)


def summed(charges: Iterable[Charge], notes: Iterable[str] = ()) -> Count:
    """The count whose total is the sum of its charges, rounded down as an int."""
    found = tuple(charges)
    return Count(found, int(sum(charge.amount for charge in found)), tuple(notes))
