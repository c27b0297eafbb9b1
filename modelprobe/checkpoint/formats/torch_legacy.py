"""Reader of pickles: `torch.save` before 1.6 (five, then the storages), and plain ones such as Detectron's `.pkl`."""

from __future__ import annotations

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.bytes.zip import AGAIN
from modelprobe.checkpoint.dtypes import STORAGE_CLASSES, tensor_bytes
from modelprobe.checkpoint.formats.pickled import checkpoint_of, nowhere, unlisted
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import Global, PickleNode, TensorRecord, value_at
from modelprobe.checkpoint.pickle.reader import Pickled, read_pickle
from modelprobe.checkpoint.records import Checkpoint, Finding, StorageEntry, new_storage
from modelprobe.errors import BadInput

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_any_pickle(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a file that begins with a pickle: torch's legacy format when that pickle is its magic number."""
    pickled = read_pickle(source, 0, limits)
    if pickled.root == LEGACY_MAGIC and type(pickled.root) is int:
        return read_torch_legacy(source, limits)
    spare = source.size - pickled.end
    findings = [Finding(f"{spare:,} bytes follow the pickle", serious=True)] if spare else []
    return checkpoint_of(
        pickled, nowhere, limits, path=source.name, kind="pickle", version=f"protocol {pickled.protocol}",
        size=source.size, findings=findings,
    )  # fmt: skip


def read_torch_legacy(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a legacy file. The data come in the order of the fifth pickle: an int64 count, then the elements."""
    parts, at = [], 0
    for _ in range(5):
        parts.append(read_pickle(source, at, limits))
        at = parts[-1].end
    _, protocol, system, root, keys = parts
    if type(keys.root) is not list:
        raise BadInput(f"{source.name} is a damaged torch file: its list of storages is missing", AGAIN)
    findings = _protocol(protocol.root, system.root)
    storages, end = _storage_layout(source, keys.root, _storage_sizes(root), at)
    findings += _length(source, end)
    found = checkpoint_of(
        root, storages.get, limits, path=source.name, kind="torch legacy", version=str(protocol.root),
        size=source.size, findings=findings,
    )  # fmt: skip
    return unlisted(found, ((key, held.length) for key, held in storages.items() if key not in found.storages))


def _protocol(number: PickleNode, system: PickleNode) -> list[Finding]:
    findings = []
    if number != PROTOCOL:
        findings.append(
            Finding(f"the protocol number is not {PROTOCOL}: torch refuses to load this file", serious=True)
        )
    if value_at(system, "little_endian") is False:
        findings.append(Finding("the file was written on a big-endian machine"))
    return findings


def _storage_sizes(root: Pickled) -> dict[str, int]:
    """Bytes of each storage by key, as the persistent ids declare them; -1 when they make no sense."""
    sizes: dict[str, int] = {}
    for value in root.persistent:
        if type(value) is TensorRecord:
            word, kind, key, numel = value.word, value.kind, value.key, value.numel
        elif type(value) is tuple and len(value) > 4:
            word, kind, key, _, numel = value[:5]
        else:
            continue
        if word == "storage":
            dtype = STORAGE_CLASSES.get(kind.name, "") if type(kind) is Global else ""
            sane = type(numel) is int and 0 <= numel < 1 << 60 and dtype
            sizes[str(key) if type(key) in (str, int) else "?"] = tensor_bytes(numel, dtype) if sane else -1
    return sizes


def _storage_layout(
    source: ByteSource, keys: list[PickleNode], sizes: dict[str, int], at: int
) -> tuple[dict[str, StorageEntry], int]:
    """Where each storage lies, and where the last one ends (-1 when that cannot be known)."""
    storages: dict[str, StorageEntry] = {}
    for key in keys:
        name = str(key) if type(key) in (str, int) else "?"
        size = sizes.get(name, -1)
        if size < 0 or name in storages:
            return storages, -1
        present = max(0, min(size, source.size - at - 8))
        position = (source.origin or 0) + at + 8
        storages[name] = new_storage(name, present, source.name, position, "" if source.origin is None else "data")
        at += 8 + size
    return storages, at


def _length(source: ByteSource, end: int) -> list[Finding]:
    """The file must end where its last storage ends: this is how a cut download shows."""
    if end < 0:
        return [Finding("the list of storages does not agree with the tensors", serious=True)]
    spare = source.size - end
    if spare == 0:
        return []
    if spare < 0:
        return [Finding(f"{-spare:,} bytes are missing at the end: the download is incomplete", serious=True)]
    zipped = source.read(source.size - 22, 4) == b"PK\5\6"
    what = "a zip archive, which other programs would read instead" if zipped else f"{spare:,} bytes"
    return [Finding(f"{what} follows the last storage" if zipped else f"{what} follow the last storage", serious=True)]
