"""The code that loading a file could execute: the names its pickles import, and code beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.limits import DEFAULT_LIMITS, ReadLimits
from modelprobe.checkpoint.pickle.globals import Trust, judged
from modelprobe.checkpoint.pickle.reader import GIVES_STATE, NOT_A_NAME, SETS_ITEMS
from modelprobe.checkpoint.scan.inspect import Executable, inspect
from modelprobe.errors import BadInput, ProbeError
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

MAX_SCANNED_FILES = 20_000
MAX_SCAN_DEPTH = 30


@dataclass(frozen=True, slots=True)
class Import:
    """A name that a pickle would import. `where` is the member or place inside the file."""

    file: str
    where: str
    name: str
    trust: Trust
    count: int
    called: bool
    reason: str = ""
    """What it could do, of what is suspicious or dangerous."""


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """A file or a part of it that could not be read to the end, or is odd.

    `trust` is unknown for what was not read, suspicious for a container that was not, or for what a careful loader
    would refuse; harmless for a remark.
    """

    file: str
    where: str
    text: str
    trust: Trust = Trust.UNKNOWN
    unread: bool = False


@dataclass(frozen=True, slots=True)
class ScanResult(Result):
    """What could run; what could not be read is in `problems`, never "clean"."""

    path: str
    files: int
    pickles: int
    nested: int
    code: tuple[str, ...]
    imports: tuple[Import, ...]
    problems: tuple[ScanProblem, ...]
    scanned: tuple[str, ...] = ()
    """Every file that was looked at."""

    @property
    def worst(self) -> Trust:
        """The worst verdict: harmless where everything was read and nothing but rebuilders is named."""
        found = [*(entry.trust for entry in self.imports), *(problem.trust for problem in self.problems)]
        return max(found, key=FROM_HARMLESS.index, default=Trust.HARMLESS)

    @property
    def dangerous(self) -> bool:
        """Whether something was found that is known to do harm."""
        return self.worst is Trust.DANGEROUS

    def report(self) -> Report:
        """Counts, then the names by verdict, dangerous ones first."""
        tables = [table for table in (_imports_table(self), _harmful(self), _unread_table(self)) if table.rows]
        blocks: list[Block] = [Facts(_scan_facts(self)), *tables, *_scan_notes(self)]
        return Report(
            f"{self.path}: code that loading could execute", "modelprobe.scan/3", tuple(blocks), self.to_dict()
        )


def scan(*paths: str | os.PathLike[str], limits: ReadLimits = DEFAULT_LIMITS) -> ScanResult:
    """Scan files, and every regular file under directories. Nothing is imported, called or loaded.

    Raises BadInput when one of `paths` itself cannot be read.
    """
    targets = [Path(path) for path in paths]
    files = [
        file for target in targets for file in (list(_files_below(target)) if target.is_dir() else [target])
    ]  # fmt: skip
    lone = len(targets) == 1 and not targets[0].is_dir()
    imports: dict[tuple[str, str, str], Import] = {}
    code, problems, pickles, nested = [], [], 0, 0
    for file in files:
        try:
            for found in _inspected(file, limits):
                if found.kind == "code":
                    code.append(f"{file}: {found.where}" if len(files) > 1 else found.where)
                    continue
                problems += _problems_of(str(file), found)
                if found.kind in ("pickle", "nested pickle"):
                    pickles += 1
                    nested += found.kind == "nested pickle"
                    _collect(imports, str(file), found)
        except ProbeError as error:
            if lone:
                raise
            problems.append(ScanProblem(str(file), "", error.message, unread=True))
    ranked = sorted(imports.values(), key=lambda found: (-FROM_HARMLESS.index(found.trust), found.file, found.name))
    shown = ", ".join(map(str, targets))
    return ScanResult(
        shown, len(files), pickles, nested, tuple(code), tuple(ranked), tuple(problems), tuple(map(str, files))
    )


SERIOUS = {NOT_A_NAME: Trust.SUSPICIOUS, SETS_ITEMS: Trust.DANGEROUS, GIVES_STATE: Trust.DANGEROUS}
"""What is odd in a pickle -> how far it can be trusted: an honest writer sets nothing on what it imports."""


def _problems_of(file: str, found: Executable) -> list[ScanProblem]:
    """What is odd, and what was not read."""
    problems = []
    if found.error:
        trust = Trust.SUSPICIOUS if found.container else Trust.UNKNOWN
        problems.append(ScanProblem(file, found.where, found.error, trust, unread=True))
    for text in found.remarks:
        plain = Trust.SUSPICIOUS if found.kind == "remark" else Trust.HARMLESS
        problems.append(ScanProblem(file, found.where, text, SERIOUS.get(text, plain)))
    return problems


def _inspected(file: Path, limits: ReadLimits) -> Iterator[Executable]:
    with closing(FileSource(file)) as source:
        yield from inspect(source, limits)


def _files_below(folder: Path) -> Iterator[Path]:
    """Regular files below a directory, in order. No linked directory is entered, no special file opened."""
    count = 0
    stack = [(folder, 0)]
    while stack:
        here, depth = stack.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise BadInput(f"cannot read {here}: {(error.strerror or 'error').lower()}") from None
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and depth < MAX_SCAN_DEPTH:
                stack.append((Path(entry.path), depth + 1))
            elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and entry.is_file()):
                count += 1
                if count > MAX_SCANNED_FILES:
                    raise BadInput(f"{folder} holds more than {MAX_SCANNED_FILES:,} files", "scan its parts one by one")
                yield Path(entry.path)


def _collect(imports: dict[tuple[str, str, str], Import], file: str, found: Executable) -> None:
    for entry in found.globals:
        if entry.module.startswith("__torch__"):
            continue  # a class of a TorchScript archive, defined by the archive's own code
        key = (file, found.where, entry.spelled)
        before = imports.get(key)
        count = entry.count + (before.count if before else 0)
        called = entry.called or (before is not None and before.called)
        verdict = judged(entry.module, entry.name, called=called, texts=entry.texts)
        name = "a computed name" if entry.spelled == "?.?" else entry.spelled
        imports[key] = Import(file, found.where, name, verdict.trust, count, called, verdict.reason)


FROM_HARMLESS = list(Trust)
"""From harmless to dangerous."""

TOLD = {
    Trust.DANGEROUS: ("Dangerous", "can do harm"),
    Trust.SUSPICIOUS: ("Suspicious", "no weight file needs"),
    Trust.UNKNOWN: ("Unknown", "are not on any list"),
    Trust.HARMLESS: ("Harmless", "torch and numpy use"),
}


def _scan_facts(result: ScanResult) -> tuple[Fact, ...]:
    facts = [
        Fact("Files", result.files, Unit.COUNT),
        Fact("Pickles", result.pickles, Unit.COUNT, f"{result.nested:,} inside others" if result.nested else ""),
    ]
    for kind, (label, what) in TOLD.items():
        held = [found for found in result.imports if found.trust is kind]
        files = len({found.file for found in held})
        where = f", in {files:,} of {result.files:,} files" if held and result.files > 1 else ""
        tone = None if kind is Trust.HARMLESS else Tone.of(not held)
        facts.append(Fact(label, len({found.name for found in held}), Unit.COUNT, f"imports that {what}{where}", tone))
    unread = [problem for problem in result.problems if problem.unread]
    if unread:
        facts.append(Fact("Not read", len(unread), Unit.COUNT, "files, or parts of files"))
    if result.code:
        facts.append(Fact("Code", len(result.code), Unit.COUNT, "files of code in archives"))
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


def _scan_notes(result: ScanResult) -> Iterator[Note]:
    danger = sorted({found.name for found in result.imports if found.trust is Trust.DANGEROUS})
    if danger:
        yield Note(
            f"Loading this with plain pickle would execute code: {', '.join(danger[:5])}. Nothing was executed.",
            Level.WARNING,
        )
    suspect = sorted({found.name for found in result.imports if found.trust is Trust.SUSPICIOUS})
    if suspect:
        yield Note(
            f"No weight file needs {', '.join(suspect[:5])}: load this only where you know who wrote it, and why.",
            Level.WARNING,
        )
    if not danger and not suspect and any(found.trust is Trust.UNKNOWN for found in result.imports):
        yield Note(
            "No import is known to be dangerous. Unknown ones are classes of some package: load only what you trust."
        )
    if result.code:
        more = f" and {len(result.code) - 3} more" if len(result.code) > 3 else ""
        yield Note(f"The archive contains code: {', '.join(result.code[:3])}{more}. It was not read.")
    unread = [problem for problem in result.problems if problem.unread]
    several = result.files > 1
    for problem in result.problems:
        file = f"{_below_folder(problem.file, result.path)}: " if several else ""
        where = f" ({problem.where})" if problem.where else ""
        if problem.unread and len(unread) <= 3:
            yield Note(f"{file}Not read: {problem.text}{where}", Level.WARNING)
        elif not problem.unread:
            yield Note(f"{file}{problem.text}{where}", Level.WARNING)
    if len(unread) > 3:
        yield Note(f"{len(unread):,} files or parts were not read: nothing is said of them.", Level.WARNING)
    if not result.pickles and not result.code and not result.problems:
        yield Note("It was read, and nothing in it could be executed.")
