"""The records of every convention: what a tool counts at one place, in all, and how it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from modelprobe.tracing.records import OpCall, Trace


class CountedItem(NamedTuple):
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


def counted_call(index: int, op: OpCall, amount: float, activations: int = 0) -> CountedItem:
    """What is counted of one operator call."""
    return CountedItem(op.name, op.kind, op.module, op.call, index, amount, activations)


@dataclass(frozen=True)
class ToolCount:
    """Everything that one tool counts of one forward pass. `notes` say what is needed to repeat it."""

    items: tuple[CountedItem, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def total(self) -> int:
        """The sum of the items, rounded down."""
        return int(sum(item.amount for item in self.items))

    @cached_property
    def activations(self) -> int:
        """Output elements of the operators that the tool calls activations; 0 for tools that do not count them."""
        return sum(item.activations for item in self.items)

    def by(self, key: Callable[[CountedItem], str]) -> dict[str, float]:
        """The amounts added up by `key`, in the order of first appearance."""
        found: dict[str, float] = {}
        for item in self.items:
            found[key(item)] = found.get(key(item), 0) + item.amount
        return found


Items = Callable[[Trace], Iterable[CountedItem]]


@dataclass(frozen=True, slots=True)
class Convention:
    """How one tool counts: `items` is a pure function of the ledger to what it counts.

    `amount` is what the tool calls its figure, `per_mac` how much of it one multiply-accumulate is. `follows` names the
    tool and the version whose rules these are, `not_seen` what it cannot see in any model. `functions` says that the
    ledger has to hold function calls, `activations` that the tool counts them. `reasons_more` and `reasons_fewer` say
    in a few words, by kind of operator, what the tool adds to the multiply-accumulates and why it counts fewer.
    `notes` go with a count. `as_installed` are the items of the model as it stands, where published figures were made
    under other settings.
    """

    name: str
    amount: str
    per_mac: int
    follows: str
    not_seen: str
    items: Items
    functions: bool = False
    activations: bool = False
    reasons_more: Mapping[str, str] = field(default_factory=dict)
    reasons_fewer: Mapping[str, str] = field(default_factory=dict)
    notes: Callable[[Trace, ToolCount], Sequence[str]] | None = None
    as_installed: Items | None = None

    def count(self, trace: Trace) -> ToolCount:
        """What the tool counts, under the settings of published figures."""
        found = ToolCount(tuple(self.items(trace)))
        return ToolCount(found.items, tuple(self.notes(trace, found))) if self.notes else found

    def predict(self, trace: Trace) -> ToolCount:
        """What the tool itself will say when it is asked about the model as it stands."""
        return self.count(trace) if self.as_installed is None else ToolCount(tuple(self.as_installed(trace)))
