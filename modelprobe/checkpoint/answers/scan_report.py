"""The report of a scan: what could run, by how far it can be trusted, and what was not read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from modelprobe.checkpoint.answers.scan import Import, ScanResult
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Row, Table, Tone
from modelprobe.report.units import Unit


def scan_blocks(result: ScanResult) -> Iterator[Block]:
    """Counts, then the names by verdict, dangerous ones first, then remarks."""
    yield Facts(_scan_facts(result))
    yield from (table for table in (_imports_table(result), _harmful(result), _unread_table(result)) if table.rows)
    yield from _scan_notes(result)


TOLD = {
    Trust.DANGEROUS: ("Dangerous", "can do harm"),
    Trust.SUSPICIOUS: ("Suspicious", "no weight file needs"),
    Trust.UNKNOWN: ("Unknown", "are not on any list"),
    Trust.HARMLESS: ("Harmless", "torch and numpy use"),
}

JUDGED = (Trust.DANGEROUS, Trust.SUSPICIOUS)
"""Verdicts that what is no import may have too."""


def _scan_facts(result: ScanResult) -> tuple[Fact, ...]:
    facts = [
        Fact("Files", result.files, Unit.COUNT),
        Fact("Pickles", result.pickles, Unit.COUNT, f"{result.nested:,} inside others" if result.nested else ""),
    ]
    for kind, (label, what) in TOLD.items():
        held = [found for found in result.imports if found.trust is kind]
        files = len({found.file for found in held})
        where = f", in {files:,} of {result.files:,} files" if held and result.files > 1 else ""
        tone = None if kind is Trust.HARMLESS else Tone.of(all(found.accepted for found in held))
        odd = [one for one in result.problems if one.trust is kind and not one.unread and kind in JUDGED]
        if odd:
            tone = Tone.of(all(one.accepted for one in held) and all(one.accepted for one in odd))
        count = len({found.name for found in held} | {one.text for one in odd})
        things = "imports and other findings" if odd else "imports"
        facts.append(Fact(label, count, Unit.COUNT, f"{things} that {what}{where}", tone))
    unread = [problem for problem in result.problems if problem.unread]
    if result.policy is not None:
        facts.append(Fact("Accepted", result.policy.accepted, Unit.COUNT, f"findings, by {result.policy.path}"))
    if unread:
        facts.append(Fact("Not read", len(unread), Unit.COUNT, "files, or parts of files"))
    if result.code:
        facts.append(Fact("Code", len(result.code), Unit.COUNT, "files of code"))
    return tuple(facts)


def _imports_table(result: ScanResult) -> Table:
    """The names; over several files each once, with how many files have it."""
    columns = (
        Column("name", "Imports"),
        Column("trust", "Trust"),
        Column("reason", "What it does", wrap=True),
        Column("called", "Called", Unit.YESNO, priority=2),
        Column("count", "Times", Unit.COUNT, priority=3),
        *((Column("files", "Files", Unit.COUNT),) if result.files > 1 else ()),
        Column("where", "Where", priority=1),
    )
    rows = [_import_row(held, result.files > 1, result.path) for held in _import_groups(result)]
    return Table(columns, tuple(rows), key="imports")


def _import_groups(result: ScanResult) -> list[list[Import]]:
    """What makes one row: a name, over all places of the file or files; one that may do harm at each place."""
    groups: dict[tuple[str, ...], list[Import]] = {}
    for found in result.imports:
        apart = result.files < 2 and found.trust in (Trust.SUSPICIOUS, Trust.DANGEROUS)
        key = (found.name, found.where) if apart else (found.name, found.trust.value)
        groups.setdefault(key, []).append(found)
    return list(groups.values())


def _below_folder(file: str, folder: str) -> str:
    """A file by its path below the directory that was scanned."""
    return file.removeprefix(f"{folder}{os.sep}")


def _import_row(held: list[Import], several: bool, folder: str) -> Row:
    first, files = held[0], list(dict.fromkeys(found.file for found in held))
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    places = len({found.where for found in held})
    more_places = f" and {places - 1:,} more" if places > 1 else ""
    where = f"{_below_folder(files[0], folder)}{more}" if several else f"{first.where}{more_places}"
    called, count = any(found.called for found in held), sum(found.count for found in held)
    cells = (
        first.name,
        first.trust.value,
        first.reason or None,
        called,
        count,
        *((len(files),) if several else ()),
        where,
    )
    return Row(cells, quiet=first.trust is Trust.HARMLESS)


def _harmful(result: ScanResult) -> Table:
    """Over several files, which of them hold a dangerous name, and at which place."""
    found = [entry for entry in result.imports if entry.trust is Trust.DANGEROUS] if result.files > 1 else []
    places: dict[tuple[str, str], list[str]] = {}
    for entry in found:
        places.setdefault((entry.file, entry.where), []).append(entry.name)
    columns = (Column("file", "File"), Column("where", "Place", priority=1), Column("names", "Names", wrap=True))
    rows = tuple(
        Row((_below_folder(file, result.path), where or None, ", ".join(names)))
        for (file, where), names in places.items()
    )
    return Table(columns, rows, "Files with dangerous imports", key="dangerous")


def _unread_table(result: ScanResult) -> Table:
    """What was not read, where there is much of it."""
    unread = [problem for problem in result.problems if problem.unread]
    columns = (Column("file", "Not read"), Column("where", "Place", priority=1), Column("text", "Why", wrap=True))
    rows = tuple(
        Row((_below_folder(one.file, result.path), one.where or None, one.text)) for one in unread
    )  # fmt: skip
    return Table(columns, rows if len(rows) > 3 else (), "Not read", key="unread")


def _policy_notes(result: ScanResult) -> Iterator[Note]:
    """What a policy accepts and why, and which of its entries do nothing any more."""
    if result.policy is None:
        return
    accepted = {(entry.text, entry.accepted): None for entry in result.findings if entry.accepted}
    yield from (Note(f"Accepted: {finding}: {reason}.", Level.INFO) for finding, reason in accepted)
    yield from (Note(f"Expired: {text}. It counts again.", Level.WARNING) for text in result.policy.expired)
    for finding in result.policy.unused:
        yield Note(f"The policy's entry for {finding!r} fits nothing that was found.", Level.INFO)


def _first_few(places: Sequence[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(places) - 3:,} more" if len(places) > 3 else ""
    return ", ".join(places[:3]) + more


def _scan_notes(result: ScanResult) -> Iterator[Note]:
    yield from _policy_notes(result)
    counted = [found for found in result.imports if not found.accepted]
    danger = sorted({found.name for found in counted if found.trust is Trust.DANGEROUS})
    if danger:
        yield Note(
            f"Loading this with plain pickle would execute code: {', '.join(danger[:5])}. Nothing was executed.",
            Level.WARNING,
        )
    suspect = sorted({found.name for found in counted if found.trust is Trust.SUSPICIOUS})
    if suspect:
        yield Note(
            f"No weight file needs {', '.join(suspect[:5])}: load this only where you know who wrote it, and why.",
            Level.WARNING,
        )
    if not danger and not suspect and any(found.trust is Trust.UNKNOWN for found in counted):
        yield Note(
            "No import is known to be dangerous. Unknown ones are classes of some package: load only what you trust."
        )
    if result.code:
        yield Note(f"Code was read, not run: {_first_few(result.code)}.")
    unread = [problem for problem in result.problems if problem.unread]
    places: dict[str, list[str]] = {}
    for problem in result.problems:
        if not problem.unread or len(unread) <= 3:
            file = f"{_below_folder(problem.file, result.path)}: " if result.files > 1 else ""
            text = f"Not read: {problem.text}" if problem.unread else problem.text
            places.setdefault(text, []).append((file + problem.where).removesuffix(": "))
    for text, held in places.items():
        where = _first_few([place for place in held if place])
        yield Note(f"{text} ({where})" if where else text, Level.WARNING)
    if len(unread) > 3:
        yield Note(f"{len(unread):,} files or parts were not read: nothing is said of them.", Level.WARNING)
    if not result.pickles and not result.code and not result.problems:
        yield Note("It was read, and nothing in it could be executed.")
