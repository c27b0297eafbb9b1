"""Do the bytes of a weight file agree with what it says of them: checksums, counts, the hash in its name?"""

from __future__ import annotations

import hashlib
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from modelprobe.checkpoints.dtypes import BITS
from modelprobe.checkpoints.entries import Checkpoint, Finding, StorageEntry
from modelprobe.checkpoints.source import FileSource
from modelprobe.checkpoints.tensors import checksum
from modelprobe.errors import ProbeError

NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z0-9.]+$")
"""How torch.hub names files: `resnet50-0676ba61.pth` begins with the SHA-256 of its content."""

STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared and what did not agree. A file may offer nothing to compare (safetensors has no checksums)."""

    checksums: int
    counts: int
    name_hash: str
    findings: tuple[Finding, ...]


def verify(checkpoint: Checkpoint) -> Verification:
    """Read the whole file once and compare what can be compared."""
    findings: list[Finding] = []
    checksums = counts = 0
    by_file: dict[str, list[StorageEntry]] = {}
    for storage in checkpoint.storages.values():
        by_file.setdefault(storage.file, []).append(storage)
    widths = {entry.storage: BITS.get(entry.dtype, 0) // 8 for entry in checkpoint.tensors}
    for file, storages in by_file.items():
        if not file:
            continue
        with closing(FileSource(file)) as source:
            for storage in storages:
                if storage.crc is not None and storage.located:
                    checksums += 1
                    findings += _crc(source, storage)
                elif checkpoint.format == "torch legacy":
                    counts += 1
                    findings += _count(source, storage, widths.get(storage.key, 0))
    name = _name_hash(checkpoint)
    if name is not None:
        findings += [] if name[1] else [Finding(f"the content is not that of the hash in the name, {name[0]}", True)]
    return Verification(checksums, counts, name[0] if name else "", tuple(findings))


def _crc(source: FileSource, storage: StorageEntry) -> list[Finding]:
    try:
        good = checksum(source, storage) == storage.crc
    except ProbeError as error:
        return [Finding(error.message, serious=True)]
    return [] if good else [Finding(f"the checksum of storage {storage.key} is wrong: its values were damaged", True)]


def _count(source: FileSource, storage: StorageEntry, width: int) -> list[Finding]:
    """A legacy file repeats the number of elements in front of each storage."""
    told = int.from_bytes(source.read(storage.position - 8, 8), "little")
    if not width or told * width == storage.length:
        return []
    return [Finding(f"storage {storage.key} counts {told:,} elements where its tensors say otherwise", serious=True)]


def _name_hash(checkpoint: Checkpoint) -> tuple[str, bool] | None:
    match = NAMED_HASH.search(Path(checkpoint.path).name)
    if match is None or len(checkpoint.files) != 1:
        return None
    digest = hashlib.sha256()
    with closing(FileSource(checkpoint.path)) as source:
        for at in range(0, source.size, STEP):
            digest.update(source.read(at, STEP))
    return match[1], digest.hexdigest().startswith(match[1])
