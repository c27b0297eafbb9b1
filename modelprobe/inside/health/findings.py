"""A finding of `health`: what is wrong, where, in one sentence; and the order in which findings are told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelprobe.report.blocks import Column, Row, Table

KINDS_BY_GRAVITY = (
    "diverged",
    "not finite",
    "learning rate zero",
    "exploding step",
    "never trained",
    "unregistered",
    "no gradient",
    "batch norm never trained",
    "average never updated",
    "variance collapsed",
    "dead filters",
    "dead units",
    "double softmax",
    "weights collapsed",
    "vanishing gradient",
    "exploding gradient",
    "saturated",
    "average lags",
)
"""Every kind, the gravest first: a later one is often the consequence of an earlier one."""


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """One thing that is wrong. `kind` is one of KINDS_BY_GRAVITY, `where` modules or tensors, `text` a plain sentence.

    `evidence` are the figures that it rests on.
    """

    kind: str
    where: tuple[str, ...]
    text: str
    evidence: str = ""


def ranked(findings: Iterable[HealthFinding]) -> tuple[HealthFinding, ...]:
    """The findings, the gravest first."""
    return tuple(sorted(findings, key=lambda found: KINDS_BY_GRAVITY.index(found.kind)))


def findings_table(findings: tuple[HealthFinding, ...]) -> Table:
    """One row for each finding."""
    columns = (
        Column("kind", "Finding"),
        Column("text", "What is wrong", wrap=True),
        Column("evidence", "Evidence", wrap=True, priority=1),
    )
    rows = tuple(Row((found.kind, found.text, found.evidence)) for found in findings)
    return Table(columns, rows, title="Findings, the gravest first", key="findings")


def listed_names(names: Iterable[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    found = list(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
