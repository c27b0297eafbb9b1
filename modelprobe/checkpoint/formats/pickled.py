"""The part that the readers of pickled formats share: from a root node to a `Checkpoint`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import Global
from modelprobe.checkpoint.pickle.reader import NOT_A_NAME, Pickled
from modelprobe.checkpoint.pickle.storages import Locate, StorageTable
from modelprobe.checkpoint.pickle.walk import TreeWalk
from modelprobe.checkpoint.records import Checkpoint, Finding, GlobalEntry, Scalar, StorageEntry


def checkpoint_of(
    pickled: Pickled,
    locate: Locate,
    limits: ReadLimits,
    *,
    path: str,
    kind: str,
    version: str = "",
    size: int = 0,
    findings: Iterable[Finding] = (),
    metadata: Mapping[str, Scalar] | None = None,
    where: str = "",
) -> Checkpoint:
    """Walk the root of a pickle and put everything found into one record."""
    walk = TreeWalk(StorageTable(locate, limits), limits)
    tree = walk.build(pickled.root)
    return Checkpoint(
        path=path, format=kind, version=version, size=size, tensors=tuple(walk.tensors),
        storages=walk.table.storages, tree=tree, modules=tuple(walk.modules),
        globals=global_entries(pickled.globals, where), findings=(*findings, *remarks(pickled), *walk.findings),
        metadata=metadata or {}, files=(path,), root=pickled.root,
    )  # fmt: skip


def global_entries(found: Iterable[Global], where: str = "") -> tuple[GlobalEntry, ...]:
    """The globals of a pickle as plain records."""
    return tuple(
        GlobalEntry(node.module, node.name, node.count, node.called, where, node.texts, node.reduced) for node in found
    )


def remarks(pickled: Pickled) -> tuple[Finding, ...]:
    """What was odd in the pickle itself. Calls of what is no plain name also stand in sound ones: of nested classes."""
    return tuple(Finding(text, serious=text != NOT_A_NAME) for text in pickled.findings)


def unlisted(found: Checkpoint, storages: Iterable[tuple[str, int]]) -> Checkpoint:
    """The same with its storages, by key and bytes, that belong to no listed tensor."""
    spare = tuple((key, size) for key, size in storages if size)
    if not spare:
        return found
    total = sum(size for _, size in spare)
    text = f"{len(spare):,} storages of {total:,} bytes belong to no tensor"
    return replace(found, unlisted=spare, findings=(*found.findings, Finding(text)))


def nowhere(key: str) -> StorageEntry | None:
    """For pickles that have no storages beside them."""
    return None
