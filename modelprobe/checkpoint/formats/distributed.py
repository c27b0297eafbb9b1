"""Reader of torch's distributed checkpoints (DCP): the `.metadata` pickle of a directory names everything."""

from __future__ import annotations

from pathlib import Path

from modelprobe.checkpoint.bytes.directory import file_names, plain_name
from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.dtypes import element_count, tensor_bytes
from modelprobe.checkpoint.formats.pickled import global_entries, remarks
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import (
    PickleNode,
    attributes,
    integers,
    is_mapping,
    last_part,
    object_class,
    pairs,
    value_at,
)
from modelprobe.checkpoint.pickle.reader import read_pickle
from modelprobe.checkpoint.pickle.rebuild import dtype_name, packed_strides
from modelprobe.checkpoint.pickle.scalars import key_text
from modelprobe.checkpoint.records import DISTRIBUTED, Checkpoint, Finding, Item, TensorEntry
from modelprobe.errors import BadInput


def read_distributed(folder: Path, limits: ReadLimits) -> Checkpoint:
    """List the global tensors of a distributed checkpoint; the chunks of the ranks are counted, not opened."""
    with FileSource(folder / ".metadata") as source:
        pickled = read_pickle(source, 0, limits)
    state = attributes(pickled.root)
    names = value_at(state, "state_dict_metadata") if state is not None else None
    if not is_mapping(names):
        raise BadInput(f"{folder} is a damaged distributed checkpoint: its .metadata lists no tensors")
    places = _item_paths(value_at(state, "planner_data"))
    tensors, others = [], []
    for key, value in pairs(names):
        name = key_text(key)
        entry = _dcp_entry(places.get(name, (name,)), value)
        if entry is not None:
            tensors.append(entry)
        else:
            others.append(Item(name, "bytes", None, last_part(object_class(value))))
    files, findings = _data_files(folder, value_at(state, "storage_data"))
    return Checkpoint(
        path=str(folder), format=DISTRIBUTED, version=str(value_at(state, "version") or ""),
        size=sum((folder / name).stat().st_size for name in files), tensors=tuple(tensors),
        tree=_tree(tensors, others), globals=global_entries(pickled.globals, ".metadata"),
        findings=(*findings, *remarks(pickled)), metadata={"files": len(files)},
        files=tuple(str(folder / name) for name in files), root=pickled.root,
    )  # fmt: skip


def _item_paths(planner: PickleNode) -> dict[str, tuple[str, ...]]:
    """The keys that each flat name had before flattening."""
    found = {}
    for key, value in pairs(planner) if is_mapping(planner) else ():
        if type(key) is str and type(value) in (tuple, list) and len(value) < 64:
            found[key] = tuple(key_text(part) for part in value)
    return found


def _dcp_entry(path: tuple[str, ...], value: PickleNode) -> TensorEntry | None:
    state = attributes(value)
    if state is None or last_part(object_class(value)) != "TensorStorageMetadata":
        return None
    given = getattr(value_at(state, "properties"), "state", None)
    properties = given if type(given) is tuple and len(given) >= 3 else (None, None, None)
    dtype = dtype_name(properties[0])
    shape = integers(value_at(state, "size"))
    numel = element_count(shape, dtype) if shape is not None else None
    flags = [*(() if numel is not None else ("impossible-shape",)), *(() if dtype else ("unknown-dtype",))]
    nbytes = tensor_bytes(numel or 0, dtype)
    chunks = value_at(state, "chunks")
    if type(chunks) is list and len(chunks) > 1:
        flags.append("flat-slice")
    return TensorEntry(
        path=path, shape=shape or (), dtype=dtype or "?",
        strides=packed_strides(shape) if shape is not None and numel is not None else None, nbytes=nbytes,
        numel=numel or 0, storage=".".join(path), storage_nbytes=nbytes,
        requires_grad=properties[2] if type(properties[2]) is bool else None, flags=tuple(flags),
    )  # fmt: skip


def _data_files(folder: Path, storage: PickleNode) -> tuple[list[str], list[Finding]]:
    """The data files that exist, and what is wrong with those that are named."""
    named: set[str] = set()
    for _, value in pairs(storage) if is_mapping(storage) else ():
        state = attributes(value)
        name = value_at(state, "relative_path") if state is not None else None
        if type(name) is str:
            named.add(name)
    present = set(file_names(folder))
    outside = sorted(name for name in named if not plain_name(name))
    missing = sorted(name for name in named - present if plain_name(name))
    findings = [Finding(f"a data file is missing: {name}", serious=True) for name in missing[:10]]
    findings += [Finding(f"a data file would lie outside the folder: {name}", serious=True) for name in outside[:10]]
    return sorted(name for name in present if name.endswith((".distcp", ".safetensors"))), findings


def _tree(tensors: list[TensorEntry], others: list[Item]) -> Item:
    """One item per first key, so that branches can be told apart."""
    groups: dict[str, list[TensorEntry]] = {}
    for entry in tensors:
        groups.setdefault(entry.path[0], []).append(entry)
    nested = [
        Item(key, "dict", None, "", len(found), len(found), sum(entry.nbytes for entry in found))
        for key, found in groups.items()
        if len(found[0].path) > 1
    ]
    total = sum(entry.nbytes for entry in tensors)
    return Item("", "dict", None, "", len(groups) + len(others), len(tensors), total, (*nested, *others))
