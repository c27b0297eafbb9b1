"""The code that loading a file could execute: the names its pickles import, and code beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.limits import DEFAULT_LIMITS, ReadLimits, UnpackBudget
from modelprobe.checkpoint.pickle.globals import Trust, TrustVerdict, judged
from modelprobe.checkpoint.pickle.reader import GIVES_STATE, NOT_A_NAME, SETS_ITEMS
from modelprobe.checkpoint.scan.found import Executable
from modelprobe.checkpoint.scan.inspect import inspect
from modelprobe.checkpoint.scan.policy import PolicyUse, PolicyUser, ScanPolicy
from modelprobe.errors import BadInput, ProbeError
from modelprobe.report.blocks import Report
from modelprobe.report.result import Result

MAX_SCANNED_FILES = 20_000
MAX_SCAN_DEPTH = 30
MAX_UNPACKED = 256 << 20
"""Bytes that are inflated and decoded in one file, over all of its parts."""


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
    accepted: str = ""
    """Why a policy accepts it; empty where none does."""

    @property
    def text(self) -> str:
        """What a policy calls it."""
        return self.name


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
    accepted: str = ""


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
    policy: PolicyUse | None = None

    @property
    def worst(self) -> Trust:
        """The worst verdict of what no policy accepts; harmless where all was read and is known to be harmless."""
        return worst_of(self.findings)

    @property
    def findings(self) -> tuple[Import | ScanProblem, ...]:
        """Imports and problems."""
        return (*self.imports, *self.problems)

    @property
    def dangerous(self) -> bool:
        """Whether something was found that is known to do harm."""
        return self.worst is Trust.DANGEROUS

    def report(self) -> Report:
        """Counts, then the names by verdict, dangerous ones first."""
        from modelprobe.checkpoint.answers.scan_report import scan_blocks

        return self.blocks_report(
            f"{self.path}: code that loading could execute", "modelprobe.scan/3", *scan_blocks(self)
        )


FROM_HARMLESS = list(Trust)
"""From harmless to dangerous."""


def worst_of(found: Iterable[Import | ScanProblem]) -> Trust:
    """The worst verdict of findings that are not accepted."""
    counted = (one.trust for one in found if not one.accepted)
    return max(counted, key=FROM_HARMLESS.index, default=Trust.HARMLESS)


def scan(
    *paths: str | os.PathLike[str], limits: ReadLimits = DEFAULT_LIMITS, policy: ScanPolicy | None = None
) -> ScanResult:
    """Scan files, and every regular file under directories. Nothing is imported, called or loaded.

    What `policy` accepts stays in the result, and does not count. Raises BadInput when one of `paths` cannot be read.
    """
    targets = [Path(path) for path in paths]
    files = [
        file for target in targets for file in (list(_files_below(target)) if target.is_dir() else [target])
    ]  # fmt: skip
    lone = len(targets) == 1 and not targets[0].is_dir()
    imports: dict[tuple[str, str, str], Import] = {}
    code: list[str] = []
    problems, pickles, nested = [], 0, 0
    for file in files:
        try:
            for found in _inspected(file, limits):
                if found.kind == "code":
                    place = f"{file}: {found.where}" if len(files) > 1 and found.where else found.where or str(file)
                    code += [place] if place not in code[-1:] else []
                problems += _problems_of(str(file), found)
                if found.kind in ("pickle", "nested pickle"):
                    pickles += 1
                    nested += found.kind == "nested pickle"
                    _collect(imports, str(file), found)
        except ProbeError as error:
            if lone:
                raise
            trust = Trust.SUSPICIOUS if _is_archive(file) else Trust.UNKNOWN
            problems.append(ScanProblem(str(file), "", error.message, trust, unread=True))
    ranked = sorted(imports.values(), key=lambda found: (-FROM_HARMLESS.index(found.trust), found.file, found.name))
    shown = ", ".join(map(str, targets))
    known, odd, use = _with_policy(policy, ranked, problems)
    return ScanResult(
        shown, len(files), pickles, nested, tuple(code), known, odd, tuple(map(str, files)), use
    )  # fmt: skip


def _with_policy(
    policy: ScanPolicy | None, imports: list[Import], problems: list[ScanProblem]
) -> tuple[tuple[Import, ...], tuple[ScanProblem, ...], PolicyUse | None]:
    """The findings, those that a policy accepts marked; and what became of the policy."""
    if policy is None:
        return tuple(imports), tuple(problems), None
    use = PolicyUser(policy)
    known = tuple(replace(one, accepted=use.accepts(one.file, one.name, one.trust)) for one in imports)
    odd = tuple(replace(one, accepted=use.accepts(one.file, one.text, one.trust)) for one in problems)
    return known, odd, use.summary()


SERIOUS = {NOT_A_NAME: Trust.SUSPICIOUS, SETS_ITEMS: Trust.DANGEROUS, GIVES_STATE: Trust.DANGEROUS}
"""What is odd in a pickle -> how far it can be trusted: an honest writer sets nothing on what it imports."""


def _problems_of(file: str, found: Executable) -> list[ScanProblem]:
    """What is odd, and what was not read."""
    problems = []
    if found.error:
        trust = Trust.SUSPICIOUS if found.container else Trust.UNKNOWN
        problems.append(ScanProblem(file, found.where, found.error, trust, unread=True))
    for text in found.remarks:
        plain = found.trust if found.kind in ("remark", "code") else Trust.HARMLESS
        problems.append(ScanProblem(file, found.where, text, SERIOUS.get(text, plain)))
    return problems


def _inspected(file: Path, limits: ReadLimits) -> Iterator[Executable]:
    with closing(FileSource(file)) as source:
        yield from inspect(source, replace(limits, budget=UnpackBudget(MAX_UNPACKED)))


def _is_archive(file: Path) -> bool:
    """Whether a file that could not be read is one that a loader may open all the same."""
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"PK\3\4"
    except OSError:
        return False


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
        verdict = judged(entry.module, entry.name, called=called, texts=entry.texts, reduced=entry.reduced)
        if before is not None and FROM_HARMLESS.index(before.trust) >= FROM_HARMLESS.index(verdict.trust):
            verdict = TrustVerdict(before.trust, before.reason)  # of another pickle at the same place
        name = "a computed name" if entry.spelled == "?.?" else entry.spelled
        imports[key] = Import(file, found.where, name, verdict.trust, count, called, verdict.reason)
