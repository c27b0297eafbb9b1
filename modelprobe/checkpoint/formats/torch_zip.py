"""Reader of `torch.save` files since torch 1.6: a zip with one pickle and one member per storage."""

from __future__ import annotations

import zlib
from dataclasses import replace

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.bytes.zip import DEFLATED, STORED, Member, ZipDirectory
from modelprobe.checkpoint.formats.pickled import checkpoint_of, unlisted
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.reader import read_pickle
from modelprobe.checkpoint.pickle.storages import Locate
from modelprobe.checkpoint.records import Checkpoint, Finding, StorageEntry, new_storage
from modelprobe.errors import BadInput

MAX_SMALL_MEMBER = 4 << 20
KNOWN_VERSIONS = range(1, 20)


def read_torch_zip(archive: ZipDirectory, root: str, limits: ReadLimits) -> Checkpoint:
    """List a torch zip whose members stand under `root/`."""
    source = archive.source
    member = archive.members[f"{root}/data.pkl"]
    version, findings = version_and_findings(archive, root)
    pickled = read_pickle(archive.open(member, limits.pickle_bytes), 0, limits)
    if 0 < pickled.end < member.size:
        findings.append(Finding(f"{member.size - pickled.end:,} bytes follow the pickle in data.pkl", serious=True))
    findings.extend(checksum(archive, member))
    found = checkpoint_of(
        pickled, locator(archive, f"{root}/data/"), limits, path=source.name, kind="torch zip", version=version,
        size=source.size, where="data.pkl",
    )  # fmt: skip
    found = with_unlisted(archive, f"{root}/data/", found)
    findings += (Finding(text, serious=True) for text in archive.findings)
    found = replace(found, findings=(*findings, *found.findings))
    return high_byte_first(found) if byteorder(archive, root) == "big" else found


def locator(archive: ZipDirectory, prefix: str) -> Locate:
    """Where the member of a storage lies. Its local header is not read: that would be one read per storage."""
    origin, name, members = archive.source.origin, archive.source.name, archive.members
    ways = {STORED: "zip-stored", DEFLATED: "zip-deflated"} if origin is not None else {}

    def locate(key: str) -> StorageEntry | None:
        place = members.place(prefix + key)
        if place < 0:
            return None
        method, _, size, header, crc, _ = members.numbers(place)
        return new_storage(key, size, name, (origin or 0) + header, ways.get(method, ""), crc)

    return locate


def version_and_findings(archive: ZipDirectory, root: str) -> tuple[str, list[Finding]]:
    """The format version, and what is odd about the small members beside the pickle."""
    findings = []
    raw = archive.read(f"{root}/version", 64) or archive.read(f"{root}/.data/version", 64)
    version = raw.decode("ascii", "replace").strip()
    if not version.isdigit() or int(version) not in KNOWN_VERSIONS:
        shown = f"the version record says {version}" if raw else "there is no version record"
        findings.append(Finding(f"{shown}: torch refuses to load this file", serious=True))
    order = byteorder(archive, root)
    if order not in ("little", "big", ""):
        findings.append(Finding(f"the byteorder record says {order}: little-endian is assumed", serious=True))
    odd = dict.fromkeys(name for name in archive.members if not safe_name(name))
    if odd:
        shown = next(iter(odd))
        findings.append(Finding(f"{len(odd):,} member names point outside the archive, as {shown}", serious=True))
    foreign = [name for name in archive.members if not name.startswith(f"{root}/") and name not in odd]
    if foreign:
        findings.append(Finding(f"{len(foreign):,} members stand outside {root}/, as {foreign[0]}; torch ignores them"))
    return version, findings


def byteorder(archive: ZipDirectory, root: str) -> str:
    """`little`, `big`, another text, or empty when the file does not say (before torch 2.1)."""
    return archive.read(f"{root}/byteorder", 64).decode("ascii", "backslashreplace").strip()


def safe_name(name: str) -> bool:
    """Whether a member's name would stay inside the archive if someone extracted it."""
    if ".." not in name and ":" not in name and name[:1] not in "/\\":
        return True
    parts = name.replace("\\", "/").split("/")
    return not (name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"))


def checksum(archive: ZipDirectory, member: Member) -> list[Finding]:
    """Compare a small member with the checksum of the directory; torch itself never does."""
    if member.size > MAX_SMALL_MEMBER or zlib.crc32(archive.open(member).read(0, member.size)) == member.crc:
        return []
    return [Finding(f"the checksum of {member.name} is wrong: the file was changed or damaged", serious=True)]


def with_unlisted(archive: ZipDirectory, prefix: str, found: Checkpoint) -> Checkpoint:
    """The same with the storages that no tensor refers to."""
    known, start = found.storages, len(prefix)
    names = [name for name in archive.members if name.startswith(prefix) and name[start:] not in known]
    return unlisted(found, ((name[start:], archive.members[name].size) for name in names))


def high_byte_first(found: Checkpoint) -> Checkpoint:
    """Mark every tensor of a file from a big-endian machine."""
    tensors = tuple(replace(entry, flags=(*entry.flags, "big-endian")) for entry in found.tensors)
    return replace(found, tensors=tensors)


def root_of(archive: ZipDirectory) -> str:
    """The folder of the first member, which is where torch looks."""
    first = next(iter(archive.members), "")
    return first.partition("/")[0] if "/" in first else ""


def nested_archive(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a torch zip that is a member of another archive."""
    archive = ZipDirectory(source, limits)
    root = root_of(archive)
    if f"{root}/data.pkl" not in archive.members:
        raise BadInput(f"{source.name} holds an archive without data.pkl")
    return read_torch_zip(archive, root, limits)
