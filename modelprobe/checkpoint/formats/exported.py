"""Reader of `torch.export.save` archives (`.pt2`): JSON tables name every weight; payload pickles are not read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from modelprobe.checkpoint.bytes.json import parse_json
from modelprobe.checkpoint.bytes.zip import ZipDirectory
from modelprobe.checkpoint.dtypes import BITS, EXPORTED, element_count, tensor_bytes
from modelprobe.checkpoint.formats.torch_zip import locator, nested_archive
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.records import (
    ATTRIBUTE,
    BUFFER,
    PARAMETER,
    Checkpoint,
    Finding,
    Item,
    Scalar,
    StorageEntry,
    TensorEntry,
)
from modelprobe.errors import BadInput

OLD_STATE = "serialized_state_dict.pt"
OLD_PROGRAM = "serialized_exported_program.json"


@dataclass
class _Signature:
    """What the programs of an archive say of the tensors that are no parameters."""

    persistent: dict[str, bool] = field(default_factory=dict)  # by the buffer's name
    constants: set[str] = field(default_factory=set)  # tensors that the program made or captured

    def read(self, program: Any) -> None:
        specs = _at(program, "graph_module", "signature", "input_specs")
        for spec in specs if isinstance(specs, list) else ():
            name, kept = _at(spec, "buffer", "buffer_name"), _at(spec, "buffer", "persistent")
            if isinstance(name, str) and isinstance(kept, bool):
                self.persistent[name] = kept
            constant = _at(spec, "tensor_constant", "tensor_constant_name")
            if isinstance(constant, str):
                self.constants.add(constant)


@dataclass
class _Listing:
    tensors: list[TensorEntry] = field(default_factory=list)
    storages: dict[str, StorageEntry] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_exported(archive: ZipDirectory, root: str, limits: ReadLimits) -> Checkpoint:
    """List the weights and constants of an export archive; `root` is its top folder, or empty."""
    top = f"{root}/" if root else ""
    if f"{top}archive_format" not in archive.members:
        return _old(archive, top, limits)
    listing = _Listing()
    signature = _Signature()
    models = _names(archive, f"{top}models/", ".json")
    for name in models:
        if archive.members[name].size > limits.header:
            listing.findings.append(Finding(f"{name} is too long to be read: buffers and constants are not told apart"))
            continue
        signature.read(parse_json(archive.read(name, limits.header), archive.source.name, name))
    for folder, several in (("weights", len(models) > 1), ("constants", len(models) > 1)):
        for name in _names(archive, f"{top}data/{folder}/", f"_{folder}_config.json"):
            label = name.rpartition("/")[2].removesuffix(f"_{folder}_config.json")
            table = parse_json(archive.read(name, limits.header), archive.source.name, name)
            where = f"{top}data/{folder}/"
            _list_payload(listing, archive, table, where, (label,) if several else (), signature)
    version = archive.read(f"{top}archive_version", 64).decode("ascii", "replace").strip()
    metadata: dict[str, Scalar] = {"models": ", ".join(name.rpartition("/")[2] for name in models)}
    nbytes = sum(entry.nbytes for entry in listing.tensors)
    listing.findings += [Finding(text, serious=True) for text in archive.findings]
    return Checkpoint(
        path=archive.source.name, format="torch.export", version=version, size=archive.source.size,
        tensors=tuple(listing.tensors), storages=listing.storages,
        tree=Item("", "dict", None, "", len(listing.tensors), len(listing.tensors), nbytes), metadata=metadata,
        findings=tuple(listing.findings), files=(archive.source.name,),
    )  # fmt: skip


def _names(archive: ZipDirectory, folder: str, ending: str) -> list[str]:
    return [name for name in archive.members if name.startswith(folder) and name.endswith(ending)]


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _list_payload(
    listing: _Listing, archive: ZipDirectory, table: Any, where: str, prefix: tuple[str, ...], signature: _Signature
) -> None:
    config = _at(table, "config")
    if not isinstance(config, dict):
        raise BadInput(f"{archive.source.name} has a table of weights that is invalid")
    find = locator(archive, where)
    for name, entry in config.items():
        file = _at(entry, "path_name")
        storage = find(file) if isinstance(file, str) else None
        if storage is not None:
            storage = replace(storage, key=where + str(file))
            listing.storages[storage.key] = storage
        listing.tensors.append(_payload_tensor((*prefix, name), entry, storage, signature))
    payloads = Finding("some payloads are separate pickles: listed here, not opened")
    if payloads not in listing.findings and any("code-payload" in tensor.flags for tensor in listing.tensors):
        listing.findings.append(payloads)


def _payload_tensor(
    path: tuple[str, ...], entry: Any, storage: StorageEntry | None, signature: _Signature
) -> TensorEntry:
    meta = _at(entry, "tensor_meta")
    shape, strides = _dims_of(_at(meta, "sizes")), _dims_of(_at(meta, "strides"))
    code = _at(meta, "dtype")
    dtype = EXPORTED.get(code, "") if type(code) is int else ""
    flags = [] if storage is not None else ["missing-storage"]
    numel = element_count(shape or (), dtype) if shape is not None else None
    pickled = _at(entry, "use_pickle") is True
    if pickled:
        flags.append("code-payload")
    if numel is None:
        flags.append("impossible-shape")
    elif not dtype:
        flags.append("unknown-dtype")
    elif storage is not None and not pickled and tensor_bytes(numel, dtype) > storage.length:
        flags.append("short-storage")
    role = PARAMETER if _at(entry, "is_param") is True else BUFFER
    if role == BUFFER and path[-1] in signature.constants:
        role = ATTRIBUTE
    if role == BUFFER and signature.persistent.get(path[-1]) is False:
        flags.append("non-persistent")
    offset = _at(meta, "storage_offset", "as_int")
    grad = _at(meta, "requires_grad")
    return TensorEntry(
        path=path, shape=shape or (), dtype=dtype or "?", strides=strides,
        offset=offset * BITS.get(dtype, 8) // 8 if type(offset) is int and 0 <= offset < 1 << 60 else 0,
        nbytes=tensor_bytes(numel or 0, dtype), numel=numel or 0, storage=storage.key if storage else "",
        storage_nbytes=storage.length if storage else 0, device=str(_at(meta, "device", "type") or "")[:64],
        role=role, requires_grad=grad if isinstance(grad, bool) else None, flags=tuple(flags),
    )  # fmt: skip


def _dims_of(found: Any) -> tuple[int, ...] | None:
    if not isinstance(found, list) or len(found) > 64:
        return None
    sizes = [_at(item, "as_int") for item in found]
    return tuple(sizes) if all(type(size) is int for size in sizes) else None


def _old(archive: ZipDirectory, top: str, limits: ReadLimits) -> Checkpoint:
    """Before torch 2.7: a state dict as a torch file of its own inside the archive."""
    member = archive.get(top + OLD_STATE)
    if member is None:
        raise BadInput(f"{archive.source.name} is an export archive without its weights")
    version = archive.read(f"{top}version", 64).decode("ascii", "replace").strip()
    found = nested_archive(archive.open(member, limits.pickle_bytes), limits)
    return replace(found, path=archive.source.name, format="torch.export", version=version, size=archive.source.size)
