"""Checks of a weight file's bytes against what it, its name or a file beside it says of them.

How to add a check: write a function from an open file to a `Check`, or None where it does not apply, enter it in
`CHECKS`, add a case to `tests/checkpoint/values/test_checksums.py`.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from modelprobe.checkpoint.bytes.source import ByteSource, FileSource
from modelprobe.checkpoint.bytes.zip import Member, ZipDirectory
from modelprobe.checkpoint.dtypes import BITS
from modelprobe.checkpoint.limits import DEFAULT_LIMITS
from modelprobe.checkpoint.records import DISTRIBUTED, Checkpoint, StorageEntry
from modelprobe.errors import BadInput, ProbeError

NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z0-9.]+$")
"""How torch.hub names files: `resnet50-0676ba61.pth` begins with the SHA-256 of its content."""

SHA256 = re.compile(r"[0-9a-fA-F]{64}")
BESIDE = (".sha256", ".sha256sum")
MAX_LIST_BYTES = 1 << 16

ZIPPED, NAMED, SIDECAR = "zip checksums", "hash in the name", "SHA-256 beside it"

STEP = 1 << 20
MAX_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of comparison in one file: how many parts of it were compared, and what did not agree."""

    file: str
    kind: str
    compared: int
    failed: int = 0
    failures: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """Everything that could be compared. A file may offer nothing for its values: safetensors has no checksums."""

    checks: tuple[Check, ...]
    values: bool

    @property
    def failed(self) -> bool:
        """Whether anything did not agree."""
        return any(check.failed for check in self.checks)


def verify(checkpoint: Checkpoint) -> Verification:
    """Read every file of the checkpoint as a whole and compare what can be compared.

    `values` tells whether the bytes of the tensors were covered. Raises BadInput for a file behind an address.
    """
    if "://" in checkpoint.path:
        raise BadInput(f"{checkpoint.path} is not on this machine", "checksums need every byte: download it first")
    made: list[Check] = []
    for file in checkpoint.files:
        with closing(FileSource(file)) as source:
            made += [check for function in CHECKS for check in [function(checkpoint, source)] if check is not None]
    covered = {check.file for check in made if check.kind in COVER_VALUES}
    return Verification(tuple(made), bool(made) and covered.issuperset(checkpoint.files))


def damaged_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is stored in the checkpoint's zip archives and does not match its checksum, in words. Compressed members,
    whose size is whatever the archive claims, are left to whoever reads them.
    """
    found: list[str] = []
    for file in checkpoint.files:
        with closing(FileSource(file)) as source:
            check = _zip_members(checkpoint, source, stored_alone=True)
        found += [f"{file}: {text}" for text in check.failures] if check else ()
    return tuple(found)


def _zip_members(checkpoint: Checkpoint, source: FileSource, stored_alone: bool = False) -> Check | None:
    """Every member of an archive against the CRC-32 of its directory; torch itself never compares them."""
    if source.read(0, 4) != b"PK\3\4" or checkpoint.format == DISTRIBUTED:  # whose files are archives in a row
        return None
    archive = ZipDirectory(source, DEFAULT_LIMITS)
    members = [member for member in archive.members.values() if not stored_alone or member.method == 0]
    failures = [_member_error(archive, member) for member in members]
    return _check_of(source.name, ZIPPED, failures)


def _member_error(archive: ZipDirectory, member: Member) -> str:
    """What is wrong about one member; empty when its checksum agrees."""
    found = 0
    try:
        feed = archive.open(member)
        for at in range(0, member.size, STEP):
            length = min(STEP, member.size - at)
            data = feed.read(at, length)
            if len(data) < length:
                return f"{member.name} ends early"
            found = zlib.crc32(data, found)
    except ProbeError as error:
        return error.message
    return "" if found == member.crc else f"{member.name} does not match its checksum: it was changed or damaged"


def _counts(checkpoint: Checkpoint, source: FileSource) -> Check | None:
    """A legacy torch file repeats the number of elements in front of each storage."""
    if checkpoint.format != "torch legacy":
        return None
    widths = {entry.storage: BITS.get(entry.dtype, 0) // 8 for entry in checkpoint.tensors}
    storages = [s for s in checkpoint.storages.values() if s.located == "data" and ":" not in s.key]
    return _check_of(source.name, "element counts", [_count(source, s, widths.get(s.key, 0)) for s in storages])


def _count(source: FileSource, storage: StorageEntry, width: int) -> str:
    told = int.from_bytes(source.read(storage.position - 8, 8), "little")
    if not width or told * width == storage.length:
        return ""
    return f"storage {storage.key} counts {told:,} elements where its tensors say otherwise"


def _check_structure(checkpoint: Checkpoint, source: FileSource) -> Check | None:
    """A safetensors header that does not cover every byte exactly once was refused when the file was opened."""
    if not source.name.endswith(".safetensors") and checkpoint.format != "safetensors":
        return None
    tensors = sum(1 for storage in checkpoint.storages.values() if storage.file == source.name)
    return Check(source.name, "structure", tensors, detail="each byte belongs to one tensor")


def _check_name(checkpoint: Checkpoint, source: FileSource) -> Check | None:
    """The hash in the file's name, as torch.hub writes it, or that is its name in the Hub's cache."""
    named = NAMED_HASH.search(Path(source.name).name)
    blob = SHA256.fullmatch(Path(source.name).resolve().name)
    if named is None and blob is None:
        return None
    wanted = named[1] if named else blob[0] if blob else ""
    good = sha256(source).startswith(wanted)
    return _check_of(source.name, NAMED, ["" if good else f"the content does not match {wanted}"], wanted)


def _check_sha256_file(checkpoint: Checkpoint, source: FileSource) -> Check | None:
    """A file beside it with its SHA-256, as `sha256sum` writes it."""
    for suffix in BESIDE:
        path = Path(f"{source.name}{suffix}")
        if not path.is_file():
            continue
        with closing(FileSource(path)) as listed:
            text = listed.read(0, MAX_LIST_BYTES).decode("utf-8", "replace")
        wanted = _hash_in_list(text, Path(source.name).name)
        if wanted is None:
            return _check_of(source.name, SIDECAR, [f"{path.name} names no SHA-256 for this file"], path.name)
        good = sha256(source) == wanted
        return _check_of(source.name, SIDECAR, ["" if good else f"the content does not match {path.name}"], path.name)
    return None


def _hash_in_list(text: str, name: str) -> str | None:
    """The hash of `name` in a list of `hash  name`; a hash alone is that of the file."""
    for line in text.splitlines():
        found = re.match(r"\\?([0-9a-fA-F]{64})(?:\s+\*?(.+))?$", line.strip())
        if found and (found[2] is None or Path(found[2]).name == name):
            return found[1].lower()
    return None


def sha256(source: ByteSource) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    for at in range(0, source.size, STEP):
        digest.update(source.read(at, STEP))
    return digest.hexdigest()


def _check_of(file: str, kind: str, failures: list[str], detail: str = "") -> Check:
    """A check from one text per part, empty where the part agrees."""
    wrong = [text for text in failures if text]
    return Check(file, kind, len(failures), len(wrong), tuple(wrong[:MAX_FAILURES]), detail)


CHECKS: tuple[Callable[[Checkpoint, FileSource], Check | None], ...] = (
    _zip_members,
    _counts,
    _check_structure,
    _check_name,
    _check_sha256_file,
)
COVER_VALUES = frozenset({ZIPPED, NAMED, SIDECAR})
