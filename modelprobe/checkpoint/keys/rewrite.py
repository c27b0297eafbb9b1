"""A plan carried out: the tensors of the result as the writer takes them, with everything around them renamed along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelprobe.checkpoint.file_names import Format
from modelprobe.checkpoint.keys.apply import FetchTensor, value_of
from modelprobe.checkpoint.keys.draft import Part
from modelprobe.checkpoint.keys.plan import KeyPlan, entries_by_name
from modelprobe.checkpoint.records import DISTRIBUTED, Checkpoint
from modelprobe.checkpoint.values.gather import ZERO
from modelprobe.checkpoint.values.left_out import (
    header_texts,
    kept_metadata,
    left_behind,
    left_in_model,
    with_tensor_counts,
)
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import PICKLED_FORMATS, NotKept, extra_entries
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write
from modelprobe.checkpoint.write.writer import Written, write_tensors
from modelprobe.errors import BadInput, CheckFailed

SPREAD = (DISTRIBUTED, ZERO)
PARAM_NAMES = "param_names"


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was written, the entries beside the model that went along or could not, and how many values a cast lost."""

    written: Written
    kept: tuple[str, ...]
    dropped: tuple[NotKept, ...]
    overflowed: int = 0
    underflowed: int = 0


def rewrite(
    found: Checkpoint,
    plan: KeyPlan,
    out: Path,
    format: Format,
    *,
    model: FetchTensor | None = None,
    versions: Mapping[str, Any] | None = None,
    keep_others: bool = True,
    allow_infinite: bool = False,
    force: bool = False,
) -> Rewritten:
    """Write the result of a plan. `model` gives the buffers that the model computes, `versions` its `_metadata`.

    Raises CheckFailed when a cast would make finite values infinite, unless that is allowed. Nothing is written then.
    """
    if found.format in SPREAD:
        hint = "`modelprobe convert` makes one file of it; repair that"
        raise BadInput(f"{found.path} is a {found.format}: its tensors lie in pieces", hint)
    with ExitStack() as stack:
        reader = stack.enter_context(TensorReader(found))
        tensors = _tensors_to_write(found, plan, reader, model)
        count, zeros = _overflowed(plan, found, reader, model, allow_infinite)
        keep = keep_others and format == "pt" and found.format in PICKLED_FORMATS
        others = extra_entries(found, reader, plan.branch)
        renamed = plan.renames
        written = write_tensors(
            out, tensors, format, metadata=kept_metadata(found),
            **({"extras": _renamed(others.extras, renamed)} if keep else {}),
            versions=_merged_versions(plan, others.versions, versions),
            sources=[Path(found.path), *map(Path, found.files)], force=force,
        )  # fmt: skip
    lost = {entry.path for entry in others.dropped}
    left = with_tensor_counts(found, others.dropped) if keep else left_behind(found, plan.branch, format)
    kept = tuple(key for key in _keys_beside(found, plan) if key not in lost) if keep else ()
    left = (*left_in_model(found, plan.branch), *left, *header_texts(found, format))
    return Rewritten(written, kept, left, count, zeros)


def _keys_beside(found: Checkpoint, plan: KeyPlan) -> list[str]:
    """The keys of the root, tensors among them, that are not the one of the model."""
    own = plan.branch.path[:1]
    keys = [child.key for child in found.tree.children] + [entry.path[0] for entry in found.tensors if entry.path]
    return [key for key in dict.fromkeys(keys) if own and key != own[0]]


def _tensors_to_write(
    found: Checkpoint, plan: KeyPlan, reader: TensorReader, model: FetchTensor | None
) -> list[TensorToWrite]:
    entries = entries_by_name(found, plan.branch)
    made = []
    for part in plan.parts:
        for source in part.sources:
            reader.check(entries[source])
            if "quantised" in entries[source].flags:
                raise BadInput(f"{source} is quantized: it cannot be rewritten")
        first = to_write(reader, entries[part.sources[0]], part.name) if part.sources else None
        if first is not None and not part.steps:
            made.append(first)
            continue
        label = (
            f"{first.shares}|{part.steps}" if first is not None and first.shares and len(part.sources) == 1 else None
        )
        made.append(TensorToWrite(part.name, part.shape, part.dtype, _loader(part, entries, reader, model), label))
    return made


def _loader(part: Part, entries: Mapping[str, Any], reader: TensorReader, model: FetchTensor | None) -> Any:
    return lambda: value_of(part, lambda name: reader.load(entries[name]), model)


def _overflowed(
    plan: KeyPlan, found: Checkpoint, reader: TensorReader, model: FetchTensor | None, allowed: bool
) -> tuple[int, int]:
    """How many values a cast makes infinite, and zero. Raises CheckFailed for infinite ones, unless that is allowed."""
    counted, zeros = _overflow(plan, found, reader, model)
    total = sum(count for _, count in counted)
    if counted and not allowed:
        name, count = counted[0]
        tensors = "1 tensor" if len(counted) == 1 else f"{len(counted):,} tensors"
        values = "1 value" if total == 1 else f"{total:,} values"
        text = f"{values} of {tensors} would become infinite, such as {count:,} in {name}"
        raise CheckFailed(text, "--dtype bfloat16 has the range of float32; --allow-inf writes them all the same")
    return total, zeros


def _overflow(
    plan: KeyPlan, found: Checkpoint, reader: TensorReader, model: FetchTensor | None
) -> tuple[Sequence[tuple[str, int]], int]:
    """The tensors whose finite values a cast would make infinite, and how many; and how many values it makes zero."""
    import torch

    entries = entries_by_name(found, plan.branch)
    counted, zeros = [], 0
    for part in plan.parts:
        if any(step.op == "cast" for step in part.steps):
            before = [reader.load(entries[source]) for source in part.sources]
            after = value_of(part, lambda name: reader.load(entries[name]), model)
            count = int(torch.isinf(after).sum()) - sum(int(torch.isinf(tensor).sum()) for tensor in before)
            if count > 0:
                counted.append((part.name, count))
            zeros += max(0, int((after == 0).sum()) - sum(int((tensor == 0).sum()) for tensor in before))
    return counted, zeros


def versions_of(found: Checkpoint, plan: KeyPlan, expected: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The `_metadata` of the result: what the file says of its modules, and for the others what is expected."""
    with TensorReader(found) as reader:
        return _merged_versions(plan, extra_entries(found, reader, plan.branch).versions, expected)


def _merged_versions(
    plan: KeyPlan, own: Mapping[str, Any] | None, expected: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Modules of another library are not those of the file: their versions are."""
    found = None if plan.structural else _renamed_versions(own, plan.renames)
    return {**expected, **(found or {})} if expected is not None else found


def _renamed_versions(versions: Mapping[str, Any] | None, renamed: Mapping[str, str]) -> Mapping[str, Any] | None:
    """`_metadata` under the new paths of the modules; a wrapper's own entry goes with the wrapper."""
    if versions is None:
        return None
    moved = dict(_modules(renamed))
    found: dict[str, Any] = {}
    for path, version in versions.items():
        new = _under(path, moved)
        if new is not None:
            found.setdefault(new, version)
    for path, version in versions.items():
        if not path or any(new.startswith(f"{path}.") for new in renamed.values()):
            found.setdefault(path, version)
    return found


def _under(path: str, moved: Mapping[str, str]) -> str | None:
    """The new path of a module: its own, or that of the nearest module above it which is known."""
    above, rest = path, ""
    while above not in moved:
        if not above:
            return None
        above, _, last = above.rpartition(".")
        rest = f".{last}{rest}"
    return (moved[above] + rest).lstrip(".")


def _modules(renamed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Old path to new path of every module that holds a tensor at or below it."""
    for old, new in renamed.items():
        one, other = old.split(".")[:-1], new.split(".")[:-1]
        yield ".".join(one), ".".join(other)
        while one and other and one[-1] == other[-1]:
            one, other = one[:-1], other[:-1]
            yield ".".join(one), ".".join(other)


def _renamed(extras: Any, renamed: Mapping[str, str]) -> Any:
    """The other entries, with the names that an optimizer keeps of its parameters renamed along. Changed in place."""
    stack, seen = [extras], set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            names = value.get(PARAM_NAMES)
            if isinstance(names, list) and "params" in value:
                value[PARAM_NAMES] = [renamed.get(name, name) if isinstance(name, str) else name for name in names]
            stack += value.values()
        elif isinstance(value, (list, tuple)):
            stack += value
    return extras
