"""`open_checkpoint(path)` recognizes the format of a weight file, lists everything in it, and runs nothing."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from modelprobe.checkpoint.branches import find_branches
from modelprobe.checkpoint.bytes.source import ByteSource, FileSource
from modelprobe.checkpoint.bytes.zip import ZipDirectory
from modelprobe.checkpoint.file_names import READ_SUFFIXES
from modelprobe.checkpoint.limits import DEFAULT_LIMITS, ReadLimits
from modelprobe.checkpoint.recognise import Kind, recognise, zip_kind
from modelprobe.checkpoint.records import Branch, Checkpoint, Finding
from modelprobe.checkpoint.wrappers import find_wrappers, guess_buffers
from modelprobe.errors import BadInput

# Readers by file and function in `formats/`: those of less common formats are imported when such a file turns up.
READERS = {
    Kind.PICKLE: "torch_legacy.read_any_pickle",
    Kind.SAFETENSORS: "safetensors.read_safetensors",
    Kind.GGUF: "gguf.read_gguf",
    Kind.ONNX: "onnx.read_onnx",
    Kind.NPY: "numpy_files.read_npy",
    # of archives
    Kind.TORCH_ZIP: "torch_zip.read_torch_zip",
    Kind.TORCHSCRIPT: "torchscript.read_torchscript",
    Kind.EXPORTED: "exported.read_exported",
    Kind.NPZ: "numpy_files.read_npz",
}
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+$")


@contextmanager
def gc_paused() -> Iterator[None]:
    """No cyclic garbage collection in the body: a listing has no cycles, and the search for them costs a third more."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def open_checkpoint(path: str | os.PathLike[str], limits: ReadLimits = DEFAULT_LIMITS) -> Checkpoint:
    """List a weight file, a checkpoint directory or a file behind an address (http(s), s3, gs, hf),
    without running, importing or loading anything of it.

    Needs neither torch nor numpy. Raises BadInput, with a hint, for everything that cannot be listed.
    """
    target = os.fspath(path)
    if "\0" in target:
        raise BadInput("a file name cannot hold a NUL character")
    with gc_paused():
        if _ADDRESS.match(target):
            return _finish(_url(target, limits))
        found = _folder_kind(Path(target), limits) if os.path.isdir(target) else _file(target, limits)  # noqa: PTH112
        return _finish(found)


def _file(path: str, limits: ReadLimits) -> Checkpoint:
    with closing(FileSource(path)) as source:
        return read_source(source, limits)


def _url(url: str, limits: ReadLimits) -> Checkpoint:
    """A file on a web server or in a bucket; the storages of the listing have no place that could be read later."""
    from modelprobe.checkpoint.bytes.bucket import BucketSource
    from modelprobe.checkpoint.bytes.http import HttpSource

    with closing((HttpSource if url.startswith("http") else BucketSource)(url)) as source:
        found = read_source(source, limits)
        metadata = {**found.metadata, "requests": source.requests, "fetched_bytes": source.fetched}
    storages = {key: replace(storage, located="") for key, storage in found.storages.items()}
    return replace(found, storages=storages, metadata=metadata)


def read_source(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List whatever a source holds; without branches and wrappers."""
    kind = recognise(source)
    if kind is Kind.ZIP:
        archive = ZipDirectory(source, limits)
        kind, root = zip_kind(archive)
        return _reader(kind)(archive, root, limits)
    if kind is Kind.JSON:
        return _json(source, limits)
    return _reader(kind)(source, limits)


def _reader(kind: Kind) -> Callable[..., Checkpoint]:
    file, _, function = READERS[kind].partition(".")
    return getattr(import_module(f"modelprobe.checkpoint.formats.{file}"), function)  # type: ignore[no-any-return]


def _json(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """A shard index; any other JSON is a configuration or the error message of a server."""
    from modelprobe.checkpoint.bytes.json import parse_json
    from modelprobe.checkpoint.formats.shards import is_index, read_shards

    if source.size > limits.header:
        raise BadInput(f"{source.name} is a JSON file of {source.size:,} bytes, no weight file")
    value = parse_json(source.read(0, source.size), source.name, "text")
    if isinstance(value, dict) and is_index(value):
        if not isinstance(source, FileSource):
            raise BadInput(
                f"{source.name} is the index of a sharded checkpoint", "name one of its shards, or download all"
            )
        return read_shards(Path(source.name), value, lambda path: _shard(path, limits), limits)
    if isinstance(value, dict) and ("error" in value or "message" in value):
        raise BadInput(f"{source.name} is the error message of a server, not the file", "download the file again")
    raise BadInput(f"{source.name} is a JSON file, not a weight file", "name the weight file beside it")


def _shard(path: Path, limits: ReadLimits) -> Checkpoint:
    with closing(FileSource(path)) as source:
        kind = recognise(source)
        if kind is Kind.JSON:  # an index within an index could go on for ever
            raise BadInput(f"{path} is a JSON file where a shard should be")
        return read_source(source, limits)


def _folder_kind(folder: Path, limits: ReadLimits) -> Checkpoint:
    """A checkpoint that is a directory."""
    from modelprobe.checkpoint.bytes.directory import file_names
    from modelprobe.checkpoint.formats.deepspeed import read_deepspeed, step_folder
    from modelprobe.checkpoint.formats.distributed import read_distributed

    names = file_names(folder)
    if ".metadata" in names:
        return read_distributed(folder, limits)
    step = step_folder(folder, names)
    if step is not None:
        return read_deepspeed(step, lambda path: _file(str(path), limits), limits)
    for index in (*INDICES, *(name for name in names if name.endswith(".index.json"))):
        if index in names:
            return _file(str(folder / index), limits)
    files = [name for name in names if name.endswith(READ_SUFFIXES)]
    if len(files) == 1:
        return _file(str(folder / files[0]), limits)
    if files:
        raise BadInput(f"{folder} holds {len(files)} weight files", f"name one of them, such as {folder / files[0]}")
    raise BadInput(f"{folder} is a directory without a weight file")


def _finish(found: Checkpoint) -> Checkpoint:
    """Add what is concluded from the listing: branches, wrappers, buffers by name."""
    shard = SHARD.search(found.path)
    if shard:
        text = f"this is shard {int(shard[1])} of {int(shard[2])}: name the index beside it to list them all"
        found = replace(found, findings=(*found.findings, Finding(text)))
    branches = find_branches(found)
    found = replace(found, branches=branches, tensors=guess_buffers(found.tensors))
    if not branches:
        note = Finding(f"the file holds no tensors; its root is {describe_root(found)}")
        return replace(found, findings=(*found.findings, note))
    found = _with_placeholders(found, branches[0])
    names = [".".join(entry.path[len(branches[0].path) :]) for entry in found.tensors_in(branches[0])]
    return replace(found, wrappers=find_wrappers(names, found))


def _with_placeholders(found: Checkpoint, branch: Branch) -> Checkpoint:
    """The same, with what to say of parameters that are empty because their values are elsewhere."""
    if found.format == "DeepSpeed ZeRO" or not any(entry.shape == (0,) for entry in found.tensors):
        return found
    from modelprobe.checkpoint.placeholders import mostly_placeholders, where_weights_are

    empty = mostly_placeholders(entry.shape for entry in found.tensors_in(branch))
    said = (Finding("; ".join(where_weights_are(found.path, empty))),) if empty else ()
    return replace(found, findings=(*found.findings, *said))


def describe_root(found: Checkpoint) -> str:
    """The root of a file in words: `a list of 3`."""
    tree = found.tree
    if tree.kind in ("dict", "list", "tuple", "set", "frozenset"):
        return f"a {tree.kind} of {tree.length}"
    return f"an object of class {tree.type}" if tree.type else f"a value of type {tree.kind}"
