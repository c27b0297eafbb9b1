"""What a scan finds in a file, and what may still be unpacked of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.records import GlobalEntry

MAX_HELD = 64 << 20
"""Bytes of compressed files in one another that are held at once; what is larger is read at its begin alone."""

OVER_BUDGET = "it unpacks to more than is read of one file: this part and others were not"
_MODULE = re.compile(r"[\w.]+|\?|copyreg extension")
"""What can be imported: a name of a module, or one that the pickle computes."""


@dataclass(frozen=True, slots=True)
class Executable:
    """One thing that could run. `kind`: pickle, nested pickle, code, remark (`remarks` alone), unread.

    `trust` is that of the remarks on what is no pickle. `error` when it could be read only in part, or not at all;
    `container` where that may hold anything.
    """

    where: str
    kind: str
    globals: tuple[GlobalEntry, ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()
    container: bool = False
    trust: Trust = Trust.SUSPICIOUS


def affordable(limits: ReadLimits, size: int) -> bool:
    """Whether the file's bounds on what is unpacked allow more; these bytes are counted."""
    return limits.budget is None or limits.budget.spend(size)


def room_left(limits: ReadLimits) -> int:
    """Bytes of compressed files that may be held beside those that are."""
    return MAX_HELD - (limits.budget.held if limits.budget else 0)


@contextmanager
def holding(limits: ReadLimits, size: int) -> Iterator[None]:
    """Count bytes that are held while what is in them is read."""
    budget = limits.budget
    if budget is not None:
        budget.held += size
    try:
        yield
    finally:
        if budget is not None:
            budget.held -= size


def unaffordable(limits: ReadLimits, where: str) -> Iterator[Executable]:
    """Said once: what comes after it in the file is not read."""
    if limits.budget is not None and not limits.budget.said:
        limits.budget.said = True
        yield Executable(where, "unread", error=OVER_BUDGET, container=True)


def comes_to_call(found: Executable) -> bool:
    """Whether it comes to a call, or may and was not read for want of budget."""
    return found.error == OVER_BUDGET or any(
        entry.called and _MODULE.fullmatch(entry.module) for entry in found.globals
    )


def importable(found: Executable) -> bool:
    """Whether it names something to import: the source text of a class begins with `c` too."""
    return any(_MODULE.fullmatch(entry.module) for entry in found.globals)
