"""What a file will hold once it is written: known before the first byte, compared with it after the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import IO

from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Checkpoint, StorageEntry
from modelprobe.checkpoint.values.reader import member_data
from modelprobe.checkpoint.write.tensor import TensorToWrite
from modelprobe.errors import BadInput

DIGEST_STEP = 4 << 20
LIMITS = ReadLimits(header=100_000_000, tensors=2_000_000)


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A tensor that the finished file must list, and the storage that must hold its values."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    storage: str


class FilePlan:
    """A file to be written: what it will list, how large it will be at most, and what must be said about it.

    `tied` are names that it cannot hold beside those of the same tensors.
    """

    def __init__(
        self,
        expected: tuple[WrittenTensor, ...],
        nbytes: int,
        notes: tuple[str, ...],
        tied: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.expected = expected
        self.tied = tied
        self.nbytes = nbytes
        self.notes = notes

    def emit(self, file: IO[bytes]) -> dict[str, bytes]:
        """Write everything; the digest of each storage."""
        raise NotImplementedError


def write_tensor(tensor: TensorToWrite, pieces: Iterator[memoryview], write: Callable[[memoryview], object]) -> bytes:
    """Write the bytes of a tensor and return their digest. Raises BadInput when there are not as many as announced."""
    digest, count = blake2b(digest_size=16), 0
    for piece in pieces:
        for start in range(0, len(piece), DIGEST_STEP):
            part = piece[start : start + DIGEST_STEP]
            write(part)
            digest.update(part)
        count += len(piece)
    if count != tensor.nbytes:
        raise BadInput(f"{tensor.name} was announced with {tensor.nbytes:,} bytes and has {count:,}")
    return digest.digest()


def compare(path: Path, plan: FilePlan, digests: dict[str, bytes]) -> None:
    """Read a finished file as anybody would, and raise BadInput unless it is what was meant."""
    found = open_checkpoint(path, LIMITS) if plan.expected else None
    listed = (
        tuple(WrittenTensor(entry.path, entry.shape, entry.dtype, entry.storage) for entry in found.tensors)
        if found
        else ()
    )
    if sorted(listed, key=_place) != sorted(plan.expected, key=_place) or (found and found.damaged):
        raise _differs("it does not list what was written")
    if found:
        _compare_values(found, digests)


def _place(expected: WrittenTensor) -> tuple[tuple[str, ...], str]:
    return expected.path, expected.storage


def _compare_values(found: Checkpoint, digests: dict[str, bytes]) -> None:
    with closing(FileSource(found.path)) as source:
        for key, digest in digests.items():
            if _storage_digest(source, found.storages[key]) != digest:
                raise _differs(f"the values of storage {key} are not what was written")


def _storage_digest(source: FileSource, storage: StorageEntry) -> bytes:
    start = storage.position if storage.located == "data" else member_data(source, storage)[0]
    digest = blake2b(digest_size=16)
    for at in range(0, storage.length, DIGEST_STEP):
        digest.update(source.read(start + at, min(DIGEST_STEP, storage.length - at)))
    return digest.digest()


def _differs(what: str) -> BadInput:
    return BadInput(f"the new file was read back and {what}", "nothing was kept; the disk may be failing")
