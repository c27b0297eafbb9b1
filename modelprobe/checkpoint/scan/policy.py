"""Findings of a scan that somebody has looked at and accepts: a TOML file, each with its reason and a last day.

[[accept]]
finding = "mypackage.net.Net"       # the name or the text that the report shows; * and ? as in a shell
file = "models/*.pth"               # optional: a path, compared from its right end
sha256 = "9f86d08..."               # optional, but needed for what is dangerous
reason = "our own classes, read by Ada"
expires = 2027-01-31                # the last day
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.values.checksums import SHA256, sha256
from modelprobe.errors import BadInput
from modelprobe.files.toml import read_toml

if TYPE_CHECKING:
    from modelprobe.checkpoint.answers.scan import ScanResult

ENTRY_KEYS = ("finding", "file", "sha256", "reason", "expires")


@dataclass(frozen=True, slots=True)
class AcceptedFinding:
    """One entry of a policy. `file` and `sha256` are empty where it does not ask for them."""

    finding: str
    reason: str
    expires: datetime.date
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ScanPolicy:
    """A policy, and the day from which its entries are judged."""

    path: str
    entries: tuple[AcceptedFinding, ...]
    today: datetime.date

    def accepting(self, file: str, finding: str, trust: Trust) -> tuple[AcceptedFinding | None, bool]:
        """The entry for a finding in a file, and whether it still holds; one that holds comes first."""
        fitting = [entry for entry in self.entries if _is_accepted_by(entry, file, finding, trust)]
        fitting.sort(key=lambda entry: entry.expires, reverse=True)
        return (fitting[0], fitting[0].expires >= self.today) if fitting else (None, False)


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """What became of a policy: findings accepted, and entries that have expired or that fit nothing, in words."""

    path: str
    accepted: int
    expired: tuple[str, ...]
    unused: tuple[str, ...]


class PolicyUser:
    """Asks a policy for each finding, and remembers which of its entries were needed."""

    def __init__(self, policy: ScanPolicy) -> None:
        self._policy = policy
        self._needed: dict[AcceptedFinding, None] = {}
        self._expired: dict[str, None] = {}
        self._accepted = 0

    def accepts(self, file: str, finding: str, trust: Trust) -> str:
        """The reason and last day with which a finding counts no more; empty where it counts."""
        if trust is Trust.HARMLESS:
            return ""
        entry, holds = self._policy.accepting(file, finding, trust)
        if entry is None:
            return ""
        self._needed[entry] = None
        if not holds:
            self._expired[f"{finding} in {file} was accepted until {entry.expires} ({entry.reason})"] = None
            return ""
        self._accepted += 1
        return f"{entry.reason} (until {entry.expires})"

    def summary(self) -> PolicyUse:
        """After the last finding."""
        unused = [entry.finding for entry in self._policy.entries if entry not in self._needed]
        return PolicyUse(self._policy.path, self._accepted, tuple(self._expired), tuple(unused))


def read_policy(path: str | os.PathLike[str], today: datetime.date | None = None) -> ScanPolicy:
    """The policy of a TOML file. Raises BadInput where it is malformed: nothing is accepted by a half of it."""
    table = read_toml(path)
    entries = table.get("accept")
    others = [key for key in table if key != "accept"]
    if others or not isinstance(entries, list) or not entries:
        what = f"it has {others[0]!r} beside them" if others else "it has none"
        raise BadInput(f"{path}: a policy is a list of [[accept]] tables, and {what}", _DRAFT)
    read = tuple(_accepted_entry(entry, f"{path}: entry {number}") for number, entry in enumerate(entries, 1))
    return ScanPolicy(os.fspath(path), read, today or datetime.date.today())


_DRAFT = "modelprobe scan FILE -f policy writes one for what it finds"


def _accepted_entry(entry: Any, place: str) -> AcceptedFinding:
    if not isinstance(entry, dict):
        raise BadInput(f"{place} is no table", _DRAFT)
    for key in entry:
        if key not in ENTRY_KEYS:
            close = difflib.get_close_matches(key, ENTRY_KEYS, n=1)
            raise BadInput(
                f"{place} has no key {key!r}",
                f"did you mean {close[0]}?" if close else f"keys: {', '.join(ENTRY_KEYS)}",
            )
    expires = entry.get("expires")
    if isinstance(expires, str):
        try:
            expires = datetime.date.fromisoformat(expires)
        except ValueError:
            raise BadInput(f"{place}: {expires!r} is no date", "write expires = 2027-01-31") from None
    if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
        raise BadInput(f"{place} has no last day", "write expires = 2027-01-31")
    for key in ("finding", "reason"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise BadInput(f"{place} has no {key}", f'write {key} = "..."')
    if not entry["finding"].strip("*?. "):
        raise BadInput(f"{place} accepts whatever is found", "name the finding as the report shows it")
    if not isinstance(entry.get("file", "*"), str) or not entry.get("file", "*").strip():
        raise BadInput(f"{place}: file is no path", 'write file = "models/*.pth", or leave it out')
    digest = entry.get("sha256", "")
    if digest != "" and not (isinstance(digest, str) and SHA256.fullmatch(digest)):
        raise BadInput(f"{place}: sha256 is not 64 hexadecimal digits", "sha256sum FILE prints them")
    return AcceptedFinding(entry["finding"], entry["reason"], expires, entry.get("file", ""), digest.lower())


def _is_accepted_by(entry: AcceptedFinding, file: str, finding: str, trust: Trust) -> bool:
    """What is dangerous is accepted by its whole name and in known bytes alone."""
    if trust is Trust.DANGEROUS and not (entry.sha256 and entry.finding == finding):
        return False
    if entry.finding != finding and not fnmatchcase(finding, entry.finding):
        return False
    if entry.file and not PurePosixPath(Path(file).as_posix()).match(Path(entry.file).as_posix()):
        return False
    return not entry.sha256 or entry.sha256 == file_digest(file)


@cache
def _digest_of(file: str, size: int, changed: int) -> str:
    with closing(FileSource(Path(file))) as source:
        return sha256(source)


def file_digest(file: str) -> str:
    """The SHA-256 of a file, computed once for as long as it does not change."""
    status = Path(file).stat()
    return _digest_of(file, status.st_size, status.st_mtime_ns)


def policy_for(result: ScanResult) -> str:
    """A draft for what a scan found, 90 days from now. It is refused until somebody has written its reasons."""
    last = datetime.date.today() + datetime.timedelta(90)
    counted = (one for one in result.findings if one.trust is not Trust.HARMLESS)
    found = [(one.file, one.text) for one in counted if not one.accepted]
    entries = [
        f"[[accept]]\nfinding = {_quoted(finding)}\nfile = {_quoted(Path(file).as_posix())}\n"
        f'sha256 = "{file_digest(file)}"\nreason = ""  # why this is fine, and who has looked\nexpires = {last}\n'
        for file, finding in dict.fromkeys(found)
    ]
    return "\n".join(entries) or "# Nothing was found that needs accepting.\n"


def _quoted(text: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
