"""New weight files, written so that an old one cannot be lost.

It is written under another name in the same directory, read back and compared, and only then renamed. An input is
never written to, whatever name or link leads to it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from modelprobe.checkpoint.file_names import Format
from modelprobe.checkpoint.write.plan import FilePlan, compare
from modelprobe.checkpoint.write.safetensors import SafetensorsPlan
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write
from modelprobe.checkpoint.write.torch import STATE_PLACE, TorchPlan
from modelprobe.errors import BadInput
from modelprobe.files.atomic import ELSEWHERE, check_target, forget, put_in_place, stage, temporary_beside, unwound
from modelprobe.report.units import size as size_text

__all__ = ["STATE_PLACE", "TensorToWrite", "Written", "to_write", "write_shards", "write_tensors"]


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file (or, of shards, all of them): its size, its tensors, and what must be said about it."""

    path: Path
    bytes: int
    tensors: int
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


class _Index(FilePlan):
    """The JSON text beside shards."""

    def __init__(self, text: bytes) -> None:
        super().__init__((), len(text), ())
        self._text = text

    def emit(self, file: IO[bytes]) -> dict[str, bytes]:
        file.write(self._text)
        return {}


def write_tensors(
    path: Path,
    tensors: Sequence[TensorToWrite],
    format: Format,
    *,
    metadata: Mapping[str, str] | None = None,
    extras: Any = STATE_PLACE,
    versions: Mapping[str, Any] | None = None,
    sources: Sequence[Path] = (),
    force: bool = False,
) -> Written:
    """Write tensors to one file, whole or not at all, with at most one of them in memory.

    `metadata` are the texts of a safetensors header. For pt, `extras` is the root of the file: plain values
    with `STATE` where the state dict goes (alone it is the root) and `Outgoing` wherever else a tensor stands;
    `versions` becomes its `_metadata`. `sources` are files that must not be touched. Raises BadInput, and then
    leaves no trace.
    """
    target = check_target(path, force=force, sources=sources, links=False)
    plan = _plan(tensors, format, metadata, extras, versions)
    (size,) = _write_all([(target, plan)], sources, force)
    return Written(target, size, len(plan.expected), plan.notes, (target,))


def write_shards(
    path: Path,
    shards: Mapping[str, Sequence[TensorToWrite]],
    format: Format,
    *,
    metadata: Mapping[str, str] | None = None,
    sources: Sequence[Path] = (),
    force: bool = False,
) -> Written:
    """Write shards by file name beside the index `path`, as the Hub keeps them: all of them or none, the index last."""
    plans: list[tuple[Path, FilePlan]] = []
    weight_map: dict[str, str] = {}
    tied: dict[str, str] = {}
    notes: list[str] = []
    for name, tensors in shards.items():
        plan = _plan(tensors, format, metadata, STATE_PLACE, None)
        plans.append((check_target(path.with_name(name), force=force, sources=sources, links=False), plan))
        weight_map.update({expected.path[-1]: name for expected in plan.expected})
        tied.update(plan.tied)
        notes += plan.notes
    total = sum(tensor.nbytes for held in shards.values() for tensor in held if tensor.name in weight_map)
    index = json.dumps({"metadata": {"total_size": total, **tied}, "weight_map": weight_map}, indent=2) + "\n"
    plans.append((check_target(path, force=force, sources=sources, links=False), _Index(index.encode())))
    sizes = _write_all(plans, sources, force)
    return Written(path, sum(sizes), len(weight_map), tuple(notes), tuple(target for target, _ in plans))


def _plan(
    tensors: Sequence[TensorToWrite],
    format: Format,
    metadata: Mapping[str, str] | None,
    extras: Any,
    versions: Mapping[str, Any] | None,
) -> FilePlan:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise BadInput(f"two tensors would be called {twice}")
    if format == "safetensors":
        return SafetensorsPlan(tensors, metadata)
    return TorchPlan(tensors, extras, versions)


def _write_all(plans: Sequence[tuple[Path, FilePlan]], sources: Sequence[Path], force: bool) -> list[int]:
    """Write and compare every file under a temporary name; rename them when all are good."""
    _room(plans[-1][0].parent, sum(plan.nbytes for _, plan in plans))
    staged = []
    with unwound(), ExitStack() as stack:
        for target, plan in plans:
            temporary = temporary_beside(target)
            stack.callback(forget, temporary)
            compare(temporary, plan, stage(target, temporary, plan.emit))
            staged.append((temporary, temporary.stat().st_size))
        for (target, _), (temporary, _) in zip(plans, staged, strict=True):
            check_target(target, force=force, sources=sources, links=False)  # it may have come into being meanwhile
            put_in_place(temporary, target)
        _sync(plans[-1][0].parent)
    return [size for _, size in staged]


def _room(folder: Path, need: int) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # some network file systems do not tell
    if need > free:
        few = f"{folder} has {size_text(free)} free, {size_text(need)} are needed"
        raise BadInput(few, f"make room, or {ELSEWHERE}")


def _sync(folder: Path) -> None:
    """Make the new names last through a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
