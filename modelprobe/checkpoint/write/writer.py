"""How does a new weight file come into being without any chance to lose an old one?

It is written under another name in the same directory, read back and compared, and only then renamed. An input is
never written to, whatever name or link leads to it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from modelprobe.checkpoint.write.outgoing import Outgoing, outgoing
from modelprobe.checkpoint.write.plan import Plan, compare
from modelprobe.checkpoint.write.safetensors import SafetensorsPlan
from modelprobe.checkpoint.write.torch import STATE, TorchPlan
from modelprobe.errors import BadInput
from modelprobe.files.atomic import unwound
from modelprobe.report.units import size as size_text

__all__ = ["STATE", "Format", "Outgoing", "Written", "check_target", "outgoing", "write", "write_shards"]

Format = Literal["safetensors", "pt"]

ELSEWHERE = "choose another place with -o"


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file (or, of shards, all of them): its size, its tensors, and what must be said about it."""

    path: Path
    bytes: int
    tensors: int
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


class _Index(Plan):
    """The JSON text beside shards."""

    def __init__(self, text: bytes) -> None:
        super().__init__((), len(text), ())
        self._text = text

    def emit(self, file: IO[bytes]) -> dict[str, bytes]:
        file.write(self._text)
        return {}


def write(
    path: Path,
    tensors: Sequence[Outgoing],
    format: Format,
    *,
    metadata: Mapping[str, str] | None = None,
    extras: Any = STATE,
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
    target = check_target(path, sources, force)
    plan = _plan(tensors, format, metadata, extras, versions)
    (size,) = _write_all([(target, plan)], sources, force)
    return Written(target, size, len(plan.expected), plan.notes, (target,))


def write_shards(
    path: Path,
    shards: Mapping[str, Sequence[Outgoing]],
    format: Format,
    *,
    metadata: Mapping[str, str] | None = None,
    sources: Sequence[Path] = (),
    force: bool = False,
) -> Written:
    """Write shards by file name beside the index `path`, as the Hub keeps them: all of them or none, the index last."""
    plans: list[tuple[Path, Plan]] = []
    weight_map: dict[str, str] = {}
    tied: dict[str, str] = {}
    notes: list[str] = []
    for name, tensors in shards.items():
        plan = _plan(tensors, format, metadata, STATE, None)
        plans.append((check_target(path.with_name(name), sources, force), plan))
        weight_map.update({expected.path[-1]: name for expected in plan.expected})
        tied.update(plan.tied)
        notes += plan.notes
    total = sum(tensor.nbytes for held in shards.values() for tensor in held if tensor.name in weight_map)
    index = json.dumps({"metadata": {"total_size": total, **tied}, "weight_map": weight_map}, indent=2) + "\n"
    plans.append((check_target(path, sources, force), _Index(index.encode())))
    sizes = _write_all(plans, sources, force)
    return Written(path, sum(sizes), len(weight_map), tuple(notes), tuple(target for target, _ in plans))


def _plan(
    tensors: Sequence[Outgoing],
    format: Format,
    metadata: Mapping[str, str] | None,
    extras: Any,
    versions: Mapping[str, Any] | None,
) -> Plan:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise BadInput(f"two tensors would be called {twice}")
    if format == "safetensors":
        return SafetensorsPlan(tensors, metadata)
    return TorchPlan(tensors, extras, versions)


def check_target(path: Path, sources: Sequence[Path] = (), force: bool = False) -> Path:
    """The place to write to. Raises BadInput for an input, a link, a directory; without force for an existing file."""
    try:
        link = path.is_symlink()
        found = path.stat() if path.exists() else None
        parent = path.parent.is_dir()
        same = found is not None and any(_same(found, source) for source in sources)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"cannot write {path}: {getattr(error, 'strerror', None) or error}", ELSEWHERE) from None
    if same:
        raise BadInput(f"{path} is the input itself", "a weight file is never written in place: choose another name")
    if link:
        raise BadInput(f"{path} is a symbolic link", "weight files are not written through links: name the file itself")
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise BadInput(f"{path} is a directory", "name a file in it")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file", ELSEWHERE)
    if found is not None and not force:
        raise BadInput(f"{path} exists", "--force replaces it")
    if not parent:
        raise BadInput(f"there is no directory {path.parent}", f"make it first, or {ELSEWHERE}")
    return path


def _same(found: os.stat_result, source: Path) -> bool:
    """Whether an existing file is one of the inputs, by whatever path or link."""
    try:
        other = source.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)


def _write_all(plans: Sequence[tuple[Path, Plan]], sources: Sequence[Path], force: bool) -> list[int]:
    """Write and compare every file under a temporary name; rename them when all are good."""
    _room(plans[-1][0].parent, sum(plan.nbytes for _, plan in plans))
    staged = []
    with unwound(), ExitStack() as stack:
        for target, plan in plans:
            temporary = target.with_name(f".modelprobe-{secrets.token_hex(8)}.tmp")
            stack.callback(_forget, temporary)
            _stage(target, temporary, plan)
            staged.append((temporary, temporary.stat().st_size))
        for (target, _), (temporary, _) in zip(plans, staged, strict=True):
            check_target(target, sources, force)  # it may have come into being meanwhile
            _rename(temporary, target)
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


def _stage(target: Path, temporary: Path, plan: Plan) -> None:
    try:
        with temporary.open("xb") as file:  # opened by name, so that the umask decides its mode
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            digests = plan.emit(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(f"cannot write {target}: {(error.strerror or str(error)).lower()}", ELSEWHERE) from error
    compare(temporary, plan, digests)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {(error.strerror or str(error)).lower()}", ELSEWHERE) from error


def _sync(folder: Path) -> None:
    """Make the new names last through a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _forget(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
