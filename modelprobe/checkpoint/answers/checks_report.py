"""The parts of a weight file's report that read data: statistics of values, and checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modelprobe.report.blocks import Column, Fact, Level, Note, Row, Table
from modelprobe.report.units import Unit

if TYPE_CHECKING:
    from modelprobe.checkpoint.answers.stats import TensorStats
    from modelprobe.checkpoint.values.checksums import Verification

MAX_LISTED_NAMES = 5


def stats_table(stats: Sequence[TensorStats]) -> Table:
    """One row for each tensor."""
    columns = (
        Column("name", "Tensor"),
        Column("dtype", "Dtype", priority=5),
        Column("shape", "Shape", Unit.SHAPE, priority=5),
        Column("mean", "Mean", Unit.NUMBER),
        Column("std", "Std", Unit.NUMBER),
        Column("norm", "Norm", Unit.NUMBER, priority=4),
        Column("min", "Min", Unit.NUMBER, priority=2),
        Column("max", "Max", Unit.NUMBER, priority=2),
        Column("zeros", "Zeros", Unit.SHARE, priority=1),
        Column("nan", "NaN", Unit.COUNT, priority=6),
        Column("inf", "Inf", Unit.COUNT, priority=6),
        Column("histogram", "Min to max", Unit.HISTOGRAM, priority=1),
    )
    rows = []
    for found in stats:
        zeros = found.zeros / found.numel if found.numel and not found.unread else None
        counts = (None, None) if found.unread else (found.nan, found.inf)
        cells = (found.name, found.dtype, found.shape, found.mean, found.std, found.norm, found.min, found.max, zeros)
        rows.append(Row((*cells, *counts, found.histogram or None), mark=_stats_mark(found), quiet=bool(found.unread)))
    return Table(columns, tuple(rows), key="stats")


def _stats_mark(found: TensorStats) -> str:
    odd = [f"{count:,} {what}" for count, what in ((found.nan, "NaN"), (found.inf, "infinite")) if count]
    return "not read" if found.unread else ", ".join([*odd, *([found.of] if found.of else [])])


def check_table(verification: Verification | None) -> Table:
    """What was compared, file by file."""
    checks = verification.checks if verification is not None else ()
    several = len({check.file for check in checks}) > 1
    columns = (
        Column("kind", "Verified"),
        Column("compared", "Compared", Unit.COUNT),
        Column("failed", "Wrong", Unit.COUNT),
        Column("detail", "With", priority=2),
        *((Column("file", "File", priority=1),) if several else ()),
    )
    rows = [
        Row(
            (c.kind, c.compared, c.failed, c.detail or None, *((c.file,) if several else ())),
            mark=_failed_mark(c.failed),
        )
        for c in checks
    ]
    return Table(columns, tuple(rows), key="verified")


def _failed_mark(failed: int) -> str:
    return "failed" if failed else ""


def check_facts(stats: Sequence[TensorStats] | None, verification: Verification | None) -> Iterator[Fact]:
    """Totals over the tensors that were read, and whether everything agreed."""
    if stats is not None:
        read = [found for found in stats if not found.unread]
        elements, zeros = sum(found.numel for found in read), sum(found.zeros for found in read)
        odd = f"{sum(found.nan for found in read):,} NaN, {sum(found.inf for found in read):,} infinite"
        share = f"{zeros / elements:.1%} of them zero, " if elements else ""
        yield Fact("Values", elements, Unit.COUNT, f"read in {len(read):,} tensors; {share}{odd}")
    if verification is not None and verification.checks:
        wrong = sum(check.failed for check in verification.checks)
        total = sum(check.compared for check in verification.checks)
        yield Fact(
            "Verified", f"{wrong:,} of {total:,} comparisons failed" if wrong else f"all {total:,} comparisons agree"
        )
    elif verification is not None:
        yield Fact("Verified", "no checksum in the file")


def check_notes(stats: Sequence[TensorStats] | None, verification: Verification | None) -> Iterator[Note]:
    """NaN and infinities by name, what could not be read, what did not agree, and what nothing can tell."""
    read = [found for found in stats or () if not found.unread]
    yield from _odd(read, "NaN", lambda found: found.nan)
    yield from _odd(read, "Infinite values", lambda found: found.inf)
    unread = [found for found in stats or () if found.unread]
    reasons = dict.fromkeys(found.unread for found in unread)
    for reason in reasons:
        names = [found.name for found in unread if found.unread == reason]
        yield Note(f"No statistics of {_listed_names(names)}: {reason}.", Level.WARNING)
    for of in ("magnitudes", "stored integers"):
        names = [found.name for found in read if found.of == of]
        if names:
            yield Note(f"Statistics are of the {of}: {_listed_names(names)}.")
    if verification is None:
        return
    for check in verification.checks:
        for failure in check.failures:
            yield Note(f"{check.kind}: {failure} ({check.file}).", Level.WARNING)
        if check.failed > len(check.failures):
            yield Note(f"{check.kind}: {check.failed - len(check.failures):,} more are wrong.", Level.WARNING)
    if not verification.values:
        yield Note(
            "No checksum covers the values: a changed number goes unnoticed. A FILE.sha256 beside it covers them."
        )


def _odd(read: Sequence[TensorStats], what: str, count: Callable[[TensorStats], int]) -> Iterator[Note]:
    names = [f"{found.name} ({count(found):,} of {found.numel:,})" for found in read if count(found)]
    if names:
        yield Note(f"{what} in {_listed_names(names)}.", Level.WARNING)


def _listed_names(names: Sequence[str]) -> str:
    more = len(names) - MAX_LISTED_NAMES
    return ", ".join(names[:MAX_LISTED_NAMES]) + (f" and {more:,} more tensors" if more > 0 else "")
