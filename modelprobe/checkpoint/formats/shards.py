"""Reader of Hugging Face shards as one listing: the index is a hint, the shards decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelprobe.checkpoint.bytes.directory import member, plain_name, strays
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.records import Checkpoint, Finding, Item, Scalar, StorageEntry, TensorEntry
from modelprobe.errors import BadInput

OpenFile = Callable[[Path], Checkpoint]


def is_index(value: object) -> bool:
    """Whether a JSON value is the index of a sharded checkpoint."""
    return isinstance(value, dict) and "weight_map" in value


def read_shards(path: Path, index: dict[str, object], open_shard: OpenFile, limits: ReadLimits) -> Checkpoint:
    """List all shards that an index names, merged."""
    weight_map = index["weight_map"]
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise BadInput(f"{path} has a weight_map that is invalid")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if not plain_name(name)]
    if outside:
        raise BadInput(f"{path} refers to a file outside its folder: {outside[0]}", "nothing was opened")
    if len(names) > limits.shards:
        raise BadInput(f"{path} names {len(names):,} shards; at most {limits.shards:,} are read")
    return merge(path, [(name, path.parent) for name in names], weight_map, index, open_shard, limits)


def merge(
    path: Path, names: list[tuple[str, Path]], weight_map: dict[str, str], index: dict[str, object],
    open_shard: OpenFile, limits: ReadLimits,
) -> Checkpoint:  # fmt: skip
    """Open one shard after the other and put their tensors together."""
    tensors: list[TensorEntry] = []
    storages: dict[str, StorageEntry] = {}
    findings: list[Finding] = []
    parts: list[Checkpoint] = []
    homes: dict[str, str] = {}
    for name, folder in names:
        part = _part(folder, name, path, open_shard, findings)
        if part is None:
            continue
        parts.append(part)
        storages.update({f"{name}:{key}": storage for key, storage in part.storages.items()})
        for entry in part.tensors:
            if entry.name in homes:
                findings.append(Finding(f"{entry.name} stands in {homes[entry.name]} and in {name}", serious=True))
            homes[entry.name] = name
            tensors.append(_moved(entry, name))
        if len(tensors) > limits.tensors:
            raise BadInput(f"{path} names more than {limits.tensors:,} tensors")
    findings += _compare(weight_map, homes)
    nbytes = sum(entry.nbytes for entry in tensors)
    kinds = sorted({part.format for part in parts})
    return Checkpoint(
        path=str(path), format=f"{' and '.join(kinds) or 'unknown'} shards",
        version=f"{len(parts)} of {len(names)} files", size=sum(part.size for part in parts), tensors=tuple(tensors),
        storages=storages, tree=Item("", "dict", None, "", len(tensors), len(tensors), nbytes),
        globals=tuple(entry for part in parts for entry in part.globals), findings=tuple(findings),
        metadata=_index_metadata(index), files=tuple(part.path for part in parts),
    )  # fmt: skip


def _part(folder: Path, name: str, path: Path, open_shard: OpenFile, findings: list[Finding]) -> Checkpoint | None:
    """One shard, if it is there."""
    if not (folder / name).exists():
        findings.append(Finding(f"a shard is missing: {name}", serious=True))
        return None
    file = member(folder, name, str(path))
    if strays(folder, file):
        findings.append(Finding(f"{name} is a link that leads out of its folder"))
    part = open_shard(file)
    findings.extend(part.findings)
    return part


def _moved(entry: TensorEntry, shard: str) -> TensorEntry:
    """The entry with its storage told apart from those of other shards."""
    return replace(entry, storage=f"{shard}:{entry.storage}")


def _compare(weight_map: dict[str, str], homes: dict[str, str]) -> list[Finding]:
    findings = []
    lost = [key for key in weight_map if key not in homes]
    extra = [key for key in homes if key not in weight_map]
    wrong = [key for key, shard in weight_map.items() if key in homes and homes[key] != shard]
    for keys, what in (
        (lost, "tensors of the index are in no shard"),
        (extra, "tensors of the shards are not in the index"),
        (wrong, "tensors are in another shard than the index says"),
    ):
        if keys:
            findings.append(Finding(f"{len(keys):,} {what}, as {keys[0]}", serious=True))
    return findings


def _index_metadata(index: dict[str, object]) -> dict[str, Scalar]:
    found = index.get("metadata")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, (bool, int, float, str))}
