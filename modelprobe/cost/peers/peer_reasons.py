"""Which operators make another tool's figure differ from ours? The ledger re-weighted, kind by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelprobe.cost.conventions.convention import Convention, Count
from modelprobe.report.units import scaled
from modelprobe.tracing.records import Trace

SHOWN = 4
"""Reasons that are told; the others are added up."""

MATTERS = 0.0005
"""The least share of our figure that a reason has to make up to be told on its own."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What a tool counts of one kind of operator more or less than modelprobe, in MACs, and why in a few words."""

    kind: str
    difference: float
    why: str


def explain(trace: Trace, found: Count, convention: Convention) -> tuple[Reason, ...]:
    """The difference between `found` and our MACs by kind of operator, the greatest first. They add up to all of it."""
    own: dict[str, dict[str, float]] = {}
    counted: dict[str, dict[str, float]] = {}
    classes = {node.path: node.cls for node in trace.tree.modules}
    for op in trace.ops:
        if op.macs:
            _add(own, op.kind, classes.get(op.module, ""), op.macs)
    for charge in found.charges:
        _add(counted, charge.kind, classes.get(charge.module, ""), charge.amount / convention.per_mac)
    reasons = []
    for kind in dict.fromkeys((*own, *counted)):
        ours, theirs = own.get(kind, {}), counted.get(kind, {})
        difference = sum(theirs.values()) - sum(ours.values())
        if difference:
            why = (
                _less(ours, theirs, convention.less.get(kind, "")) if difference < 0 else convention.more.get(kind, "")
            )
            reasons.append(Reason(kind, difference, why))
    return tuple(sorted(reasons, key=lambda reason: -abs(reason.difference)))


def _add(amounts: dict[str, dict[str, float]], kind: str, cls: str, amount: float) -> None:
    inside = amounts.setdefault(kind, {})
    inside[cls] = inside.get(cls, 0) + amount


def _less(ours: dict[str, float], theirs: dict[str, float], habit: str) -> str:
    """Where the tool sees nothing, or too little, and its reason: the classes of the modules that the operators ran in.

    A class that makes up most of it stands alone; what is lacking in the others is said to be there.
    """
    lacking = {cls: amount - theirs.get(cls, 0) for cls, amount in ours.items() if amount > theirs.get(cls, 0)}
    worst = sorted(lacking, key=lambda cls: -lacking[cls])
    named = worst[:2] if lacking[worst[0]] < 0.9 * sum(lacking.values()) else worst[:1]
    others = " and others" if len(worst) > len(named) and len(named) > 1 else ""
    seen = any(theirs.get(cls, 0) for cls in named)
    where = f"{'seen in part' if seen else 'not seen'} in {', '.join(named)}{others}"
    return f"{where}: {habit}" if habit else where


def told(reasons: Sequence[Reason], macs: int) -> list[str]:
    """The reasons that matter as phrases, and what the others come to. Kinds with the same reason are told at once."""
    joined: dict[tuple[str, bool], list[Reason]] = {}
    for reason in reasons:
        key = (reason.why, reason.difference > 0) if reason.why else (reason.kind, True)
        joined.setdefault(key, []).append(reason)
    groups = sorted(joined.values(), key=lambda group: -abs(_sum(group)))
    main = [group for i, group in enumerate(groups) if i == 0 or abs(_sum(group)) >= MATTERS * macs][:SHOWN]
    rest = sum(map(_sum, groups[len(main) :]))
    return [*map(_phrase, main), *([f"{signed(rest)} other kinds"] if rest else [])]


def _sum(group: Sequence[Reason]) -> float:
    return sum(reason.difference for reason in group)


def _phrase(group: Sequence[Reason]) -> str:
    kinds, why = ", ".join(reason.kind for reason in group), group[0].why
    if group[0].difference < 0:
        return f"{signed(_sum(group))} {kinds} {why}"
    return f"{signed(_sum(group))} {kinds}{f' ({why})' if why else ''}"


def signed(difference: float) -> str:
    """An amount with its sign: `+15.13 M`."""
    whole = int(difference) if float(difference).is_integer() else difference
    return f"{'+' if difference > 0 else ''}{scaled(whole)}"
