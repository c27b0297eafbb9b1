"""Two checkpoints opened side by side for a comparison: the tensors of both models, saved in a state dict or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelprobe.checkpoint.adapters.lora import Lora, find_lora
from modelprobe.checkpoint.adapters.merge import merged_with
from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.records import DISTRIBUTED, FLAG_TEXT, Branch, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.gather import (
    ZERO,
    gather,
    hinted,
    readable,
    refuse_unusable,
    tied_before,
)
from modelprobe.checkpoint.values.left_out import NO_NUMBERS, not_saved, unlisted_storages
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import ONE_TENSOR, NotKept
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    import torch

INTEGERS = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
"""The plain dtype of the integers in a quantized tensor."""

NamedTensors = dict[str, TensorToWrite]


@dataclass(frozen=True, slots=True)
class Sides:
    """Two files opened side by side: the tensors of their models, by name, and what of each is not compared."""

    a: Branch
    b: Branch
    left: Mapping[str, TensorToWrite]
    right: Mapping[str, TensorToWrite]
    not_compared: tuple[tuple[NotKept, ...], tuple[NotKept, ...]]
    adapters: tuple[Lora | None, Lora | None] = (None, None)


@dataclass(frozen=True, slots=True)
class _Opened:
    branch: Branch
    saved: NamedTensors
    beside: NamedTensors
    unread: tuple[NotKept, ...] = ()
    lora: Lora | None = None


def open_sides(a: Checkpoint, b: Checkpoint, stack: ExitStack, branches: Sequence[str] = ()) -> Sides:
    """Both models; `branches` holds one name for both or one for each. Raises BadInput for what cannot be read.

    Of an adapter and its base the weights with and without it are compared. Attributes, constants and buffers that no
    state dict has are compared where the other file has them too.
    """
    with hinted(a.path):
        first = _opened(a, stack, branches[0] if branches else None)
    with hinted(b.path):
        second = _opened(b, stack, branches[-1] if branches else None)
    if (first.lora is None) != (second.lora is None):
        first, second = _on_base(a, first, b, second, stack), _on_base(b, second, a, first, stack)
    left, alone = _with_beside(first, second)
    right, other = _with_beside(second, first)
    return Sides(
        first.branch,
        second.branch,
        left,
        right,
        ((*first.unread, *alone), (*second.unread, *other)),
        (first.lora, second.lora),
    )


def _opened(found: Checkpoint, stack: ExitStack, name: str | None) -> _Opened:
    refuse_unusable(found)
    if found.format in (DISTRIBUTED, ZERO):
        parts = gather(found, stack, name)
        return _Opened(parts.branch, {tensor.name: tensor for tensor in parts.tensors}, {})
    branch = chosen_branch(found, name)
    reader = stack.enter_context(TensorReader(found))
    gone = {id(entry) for entry in not_saved(found, branch)}
    saved: NamedTensors = {}
    beside: NamedTensors = {}
    unread = []
    for listed in found.tensors_in(branch):
        into = beside if id(listed) in gone else saved
        try:
            into.update(_to_compare(reader, readable(found, listed), len(branch.path)))
        except BadInput as error:
            if into is saved and not NO_NUMBERS & set(listed.flags):
                raise
            unread.append(NotKept(listed.name, error.message))
    saved.update({tensor.name: tensor for tensor in tied_before(found, branch, reader)})
    return _Opened(branch, saved, beside, (*unread, *unlisted_storages(found)), find_lora(found))


def _on_base(mine: Checkpoint, opened: _Opened, base: Checkpoint, other: _Opened, stack: ExitStack) -> _Opened:
    """An adapter as what it makes of its base; any other file as it is."""
    if opened.lora is None:
        return opened
    reader = stack.enter_context(TensorReader(mine))
    merged = merged_with(opened.lora, reader, list(other.saved.values()), base.path)
    return _Opened(opened.branch, {tensor.name: tensor for tensor in merged.tensors}, {}, (), opened.lora)


def _to_compare(reader: TensorReader, entry: TensorEntry, start: int) -> NamedTensors:
    """A tensor by its name in the branch; a quantized one as its integers, and its scale and zero point."""
    name = ".".join(entry.path[start:]) or ONE_TENSOR
    if "quantised" not in entry.flags:
        reader.check(entry)
        return {name: to_write(reader, entry, name)}
    if entry.dtype not in INTEGERS:
        raise BadInput(f"{entry.name} cannot be compared: {entry.dtype}, {FLAG_TEXT['quantised']}")
    flags = tuple(flag for flag in entry.flags if flag != "quantised")
    plain = replace(entry, dtype=INTEGERS[entry.dtype], flags=flags)
    reader.check(plain)
    numbers = [float(word) for word in entry.quantizer.split()[1:]]

    def scheme() -> torch.Tensor:
        import torch

        return torch.tensor(numbers, dtype=torch.float64)

    quantizer = f"{name}.quantizer"
    return {
        name: to_write(reader, plain, name),
        quantizer: TensorToWrite(quantizer, (len(numbers),), "float64", scheme),
    }


def _with_beside(mine: _Opened, other: _Opened) -> tuple[NamedTensors, list[NotKept]]:
    """The tensors to compare, and those that only this file has and no state dict would."""
    if not mine.saved:
        return mine.beside, []
    there = {**other.saved, **other.beside}
    shared = {name: tensor for name, tensor in mine.beside.items() if name in there}
    alone = [NotKept(name, "in no state_dict()") for name in mine.beside if name not in there]
    return {**mine.saved, **shared}, alone
