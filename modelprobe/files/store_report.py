"""The answer of `modelprobe cache`: what the store holds, and what was removed from it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.files.store import MAX_BYTES, Store, is_store_on
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit


@dataclass(frozen=True, slots=True)
class KeptEntry:
    """One entry: what it is (flops, training, memory, answer), of which target, and when it was last used (UTC)."""

    what: str
    target: str
    nbytes: int
    made: str
    used: str


@dataclass(frozen=True, slots=True)
class CacheResult(Result):
    """What the store holds now. `removed` entries were there before; `off` is whether MODELPROBE_STORE turns it off."""

    folder: str
    nbytes: int
    limit: int
    off: bool
    entries: tuple[KeptEntry, ...]
    removed: int | None = None
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The place and its size, then the entries, the most recently used first."""
        facts = [
            Fact("Directory", self.folder),
            Fact("Entries", len(self.entries), Unit.COUNT),
            Fact("Size", self.nbytes, Unit.BYTES),
            Fact("Limit", self.limit, Unit.BYTES, "then the least recently used go"),
        ]
        if self.removed is not None:
            facts.append(Fact("Removed", self.removed, Unit.COUNT))
        columns = (
            Column("target", "Target"),
            Column("what", "What"),
            Column("nbytes", "Size", Unit.BYTES),
            Column("made", "Recorded", priority=2),
            Column("used", "Last used", priority=1),
        )
        rows = tuple(Row((e.target, e.what, e.nbytes, e.made, e.used)) for e in self.entries)
        table = (Table(columns, rows, key="entries"),) if rows else ()
        off = (Note("MODELPROBE_STORE=0 turns the store off.", Level.INFO),) if self.off else ()
        return self.blocks_report("Store of recorded runs", "modelprobe.cache/1", Facts(tuple(facts)), *table, *off)


def describe_store(env: Mapping[str, Any], *, clear: bool = False) -> CacheResult:
    """What the store holds; with `clear` after all of it was removed. Raises BadInput where that cannot be done."""
    store = Store()
    try:
        removed = store.clear() if clear else None
        held = store.entries()
    except OSError as error:
        hint = f"check the permissions of {store.folder}"
        raise BadInput(f"{store.folder} cannot be cleared: {error.strerror or error}", hint) from error
    entries = tuple(
        KeptEntry(
            str(entry.about.get("what", "")), str(entry.about.get("target", "")), entry.nbytes,
            _time(entry.about.get("made")), _time(entry.used),
        )
        for entry in held
    )  # fmt: skip
    size = sum(entry.nbytes for entry in entries)
    return CacheResult(os.fspath(store.folder), size, MAX_BYTES, not is_store_on(), entries, removed, env)


def _time(seconds: Any) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) if isinstance(seconds, (int, float)) else ""
