"""A checkpoint written in another format: one file, or shards with an index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from modelprobe.checkpoint.file_names import Format, format_of
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import Branch, Checkpoint
from modelprobe.checkpoint.values.checksums import damaged_parts
from modelprobe.checkpoint.values.gather import Gathered, gather, hinted
from modelprobe.checkpoint.values.left_out import (
    header_texts,
    left_behind,
    left_in_model,
    unlisted_storages,
    with_tensor_counts,
)
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import PICKLED_FORMATS, NotKept
from modelprobe.checkpoint.write.tensor import TensorToWrite
from modelprobe.checkpoint.write.writer import Written, write_shards, write_tensors
from modelprobe.errors import BadInput

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


@dataclass(frozen=True, slots=True)
class Converted:
    """What was read, what was written, and what became of the rest. `kept` are entries beside the model's tensors."""

    source: str
    source_format: str
    source_size: int
    branch: str
    branch_kind: str
    rule: str
    format: Format
    written: Written
    kept: tuple[str, ...]
    changed: tuple[str, ...]
    dropped: tuple[NotKept, ...]
    damaged: tuple[str, ...] = ()
    """What does not match its checksum in the source: it was written as it is."""


def parse_byte_size(text: str) -> int:
    """`2GB`, `500MB` (powers of 1000, as on the Hub), `2GiB` or plain bytes. Raises BadInput for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)", text.strip())
    step = UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * step) if match and step else 0
    if size < 1:
        raise BadInput(f"--shard-size {text!r} is no size", "for example 2GB, 500MB or 2GiB")
    return size


def convert(
    source: str | Path,
    out: Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    shard_size: int | None = None,
    force: bool = False,
) -> Converted:
    """Write the checkpoint `source` to `out`. Raises BadInput, and then has written nothing."""
    target = format_of(out, format)
    found = open_checkpoint(source)
    with hinted(source), ExitStack() as stack:
        single = shard_size is None
        parts = gather(found, stack, branch, keep_others=target == "pt" and single)
        inputs = [Path(source), *map(Path, found.files)]
        if shard_size is None:
            written = _one(out, parts, target, inputs, force)
        else:
            written = _shards(out, parts, target, shard_size, inputs, force)
    return _conversion(found, parts, target, written)


def merge_adapter(
    source: str | Path,
    base: str | Path,
    out: Path,
    *,
    format: str | None = None,
    branch: str | None = None,
    shard_size: int | None = None,
    force: bool = False,
) -> Converted:
    """Write the weights of `base` with the LoRA adapter `source` added; `branch` is one of the base.

    Raises BadInput, and then has written nothing: where the adapter does not fit, or its scale is not known.
    """
    from modelprobe.checkpoint.adapters.lora import describe, find_lora
    from modelprobe.checkpoint.adapters.merge import merged_with

    target = format_of(out, format)
    adapter, found = open_checkpoint(source), open_checkpoint(base)
    lora = find_lora(adapter)
    if lora is None:
        raise BadInput(
            f"{source} is no LoRA adapter", "--merge adds an adapter to its base: convert ADAPTER --merge BASE"
        )
    with hinted(base), ExitStack() as stack:
        parts = gather(found, stack, branch)
        merged = merged_with(lora, stack.enter_context(TensorReader(adapter)), parts.tensors, str(base))
        parts = replace(parts, tensors=merged.tensors)
        inputs = [Path(source), *map(Path, adapter.files), Path(base), *map(Path, found.files)]
        if shard_size is None:
            written = _one(out, parts, target, inputs, force)
        else:
            written = _shards(out, parts, target, shard_size, inputs, force)
    done = _conversion(found, parts, target, written)
    said = (
        *(f"{name}: LoRA added ({describe(lora)})" for name in merged.changed),
        *(f"{name}: replaced by the adapter's" for name in merged.replaced),
        *(f"{name}: added, from the adapter" for name in merged.added),
    )
    damaged = (*damaged_parts(adapter), *done.damaged)
    return replace(done, source=f"{adapter.path} on {found.path}", changed=(*said, *done.changed), damaged=damaged)


def _one(out: Path, parts: Gathered, target: Format, inputs: Sequence[Path], force: bool) -> Written:
    others = parts.others
    tensors = () if parts.whole else parts.tensors
    return write_tensors(
        out, tensors, target, metadata=parts.metadata, extras=others.extras, versions=others.versions,
        sources=inputs, force=force,
    )  # fmt: skip


def _shards(out: Path, parts: Gathered, target: Format, size: int, inputs: Sequence[Path], force: bool) -> Written:
    groups = split_shards(parts.tensors, size)
    if len(groups) < 2:
        return _one(out, parts, target, inputs, force)
    names = [f"{out.stem}-{number:05}-of-{len(groups):05}{out.suffix}" for number in range(1, len(groups) + 1)]
    shards = dict(zip(names, groups, strict=True))
    index = out.with_name(f"{out.name}.index.json")
    return write_shards(index, shards, target, metadata=parts.metadata, sources=inputs, force=force)


def split_shards(tensors: Sequence[TensorToWrite], size: int) -> list[list[TensorToWrite]]:
    """Tensors in order, cut where a shard would outgrow `size`; tied ones stay together, a larger one stands alone."""
    groups: list[list[TensorToWrite]] = [[]]
    homes: dict[str, list[TensorToWrite]] = {}
    room = size
    for tensor in tensors:
        home = homes.get(tensor.shares) if tensor.shares is not None else None
        if home is not None:
            home.append(tensor)
            continue
        if tensor.nbytes > room and groups[-1]:
            groups.append([])
            room = size
        groups[-1].append(tensor)
        room -= tensor.nbytes
        if tensor.shares is not None:
            homes[tensor.shares] = groups[-1]
    return groups


def _conversion(found: Checkpoint, parts: Gathered, target: Format, written: Written) -> Converted:
    behind = with_tensor_counts(found, parts.others.dropped)
    kept: tuple[str, ...] = ()
    behind += unlisted_storages(found) if parts.whole else left_in_model(found, parts.branch)
    if parts.keeps:
        lost = {entry.path for entry in behind}
        kept = tuple(child.key for child in found.tree.children if child.key not in lost)
    else:
        behind = (*behind, *left_behind(found, parts.branch, target))
    behind = (*behind, *header_texts(found, target))
    changed = *parts.others.changed, *_no_parameters(found, parts.branch, target), *_no_attributes(found, parts)
    return Converted(
        source=found.path, source_format=found.format, source_size=found.size, branch=parts.branch.name,
        branch_kind=parts.branch.kind,
        rule=parts.branch.rule, format=target, written=written, kept=kept,
        changed=changed, dropped=behind, damaged=damaged_parts(found),
    )  # fmt: skip


def _no_attributes(found: Checkpoint, parts: Gathered) -> Iterator[str]:
    """That attributes which Python code hung on tensors are in no new file."""
    for entry in found.tensors if parts.keeps else found.tensors_in(parts.branch):
        if "attributes" in entry.flags:
            yield f"{entry.name or 'the root'}: its Python attributes were left out"


def _no_parameters(found: Checkpoint, branch: Branch, target: Format) -> tuple[str, ...]:
    """That parameters are written as a state dict has them: plain tensors, which do not require gradients."""
    trained = sum(1 for entry in found.tensors_in(branch) if entry.requires_grad)
    if not trained or target != "pt" or branch.kind == "module" or found.format not in PICKLED_FORMATS:
        return ()
    many = "1 tensor" if trained == 1 else f"{trained:,} tensors"
    return (f"{branch.name or 'the root'}: {many} with requires_grad became plain, as in a state_dict",)
