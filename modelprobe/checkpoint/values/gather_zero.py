"""Parameters of a DeepSpeed ZeRO checkpoint, put together from its flat shards one at a time.

Stages 1 and 2 cut each group of parameters, laid end to end, into one run per rank. Stage 3 cuts every parameter into
equal parts, one per rank, the last ones padded. The values are the optimizer's float32 master copies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.formats.deepspeed import MODEL_STATES, OPTIM_STATES, SHAPES
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.pickle.nodes import PickleNode, integers, is_mapping, pairs, value_at
from modelprobe.checkpoint.records import Branch, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.gather import Gathered
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import ExtraEntries
from modelprobe.checkpoint.write.tensor import TensorToWrite, flat_pieces, to_write
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    import torch

OPTIMIZER = "optimizer_state_dict"
RANK = re.compile(r"zero_pp_rank_(\d+)_")
MODEL_PART = re.compile(r"mp_rank_(\d+)_")

Group = list[tuple[str, tuple[int, ...]]]
Run = tuple[int, int]
"""First element and count."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank's flat tensors, in the order of the groups."""

    reader: TensorReader
    flats: tuple[TensorEntry, ...]
    stage: int

    def read(self, entry: TensorEntry, start: int, count: int) -> Iterator[torch.Tensor]:
        """A run of elements of one flat tensor."""
        if count:
            part = replace(entry, shape=(count,), strides=(1,), numel=count, nbytes=count * 4)
            yield from flat_pieces(self.reader, replace(part, offset=entry.offset + start * 4))


def gather_zero(found: Checkpoint, stack: ExitStack) -> Gathered:
    """The parameters by their own names, the buffers, and the tied parameters."""
    ranks = _ranks(found, stack)
    groups = _param_groups(found.root)
    world, stage = len(ranks), ranks[0].stage
    told = value_at(found.root, "dp_world_size")
    if type(told) is int and told != world:
        raise BadInput(f"{found.path} is incomplete: {world} optimizer shards for {told} ranks")
    if len({rank.stage for rank in ranks}) != 1 or stage not in (1, 2, 3):
        raise BadInput(f"{found.path} gives no state_dict: its ZeRO stage is {stage}")
    tensors = _sharded(ranks, groups) if stage == 3 else _partitioned(ranks, groups)
    reader = stack.enter_context(TensorReader(found))
    tensors += _whole_tensors(found, reader)
    tensors += _tied(found.root, tensors)
    numel = sum(tensor.numel for tensor in tensors)
    rule = f"the float32 master copies of {world} ranks, ZeRO stage {stage}"
    branch = Branch((), "dict", rule, len(tensors), numel, sum(tensor.nbytes for tensor in tensors))
    return Gathered(branch, tuple(tensors), ExtraEntries())


def _ranks(found: Checkpoint, stack: ExitStack) -> list[Rank]:
    models = {match[1] for name in found.files if name.endswith(MODEL_STATES) for match in MODEL_PART.finditer(name)}
    if len(models) > 1:
        raise BadInput(f"{found.path} gives no state_dict: the model itself is cut into {len(models)} parts")
    numbered = []
    for file in found.files:
        match = RANK.search(file.rpartition("/")[2].rpartition("\\")[2])
        if file.endswith(OPTIM_STATES) and match:
            numbered.append((int(match[1]), file))
    if not numbered or [number for number, _ in sorted(numbered)] != list(range(len(numbered))):
        raise BadInput(f"{found.path} is incomplete: the optimizer shards of some ranks are missing")
    return [_rank_number(file, stack) for _, file in sorted(numbered)]


def _rank_number(file: str, stack: ExitStack) -> Rank:
    part = open_checkpoint(file)
    stage = value_at(value_at(part.root, OPTIMIZER), "zero_stage")
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    flats = [entry for entry in part.tensors if entry.path[:2] == (OPTIMIZER, key)]
    reader = stack.enter_context(TensorReader(part))
    for entry in flats:
        reader.check(entry)
        if len(entry.shape) != 1 or entry.dtype != "float32" or entry.strides != (1,):
            raise BadInput(f"{file} gives no parameters: {entry.name} is no flat float32 tensor")
    return Rank(reader, tuple(flats), stage if type(stage) is int else 0)


def _param_groups(root: PickleNode) -> list[Group]:
    found = value_at(root, SHAPES)
    groups = []
    for group in found if type(found) is list else [found]:
        shapes = [(key, integers(value)) for key, value in pairs(group)] if is_mapping(group) else []
        groups.append([(key, shape) for key, shape in shapes if type(key) is str and shape is not None])
    return groups


def _partitioned(ranks: Sequence[Rank], groups: Sequence[Group]) -> list[TensorToWrite]:
    """Stages 1 and 2: a parameter is a run of its group, which may begin in one rank and end in another."""
    made = []
    for index, group in enumerate(groups):
        if any(len(rank.flats) <= index for rank in ranks):
            raise BadInput(f"a rank has no flat tensor for parameter group {index}")
        parts = [(rank, rank.flats[index]) for rank in ranks]
        at = 0
        for name, shape in group:
            made.append(_parameter(name, shape, _overlaps(parts, at, math.prod(shape))))
            at += math.prod(shape)
        _check_length(at, sum(entry.numel for _, entry in parts), 2 * len(ranks))
    return made


def _overlaps(parts: Sequence[tuple[Rank, TensorEntry]], at: int, count: int) -> list[tuple[Rank, TensorEntry, Run]]:
    """Where the elements from `at` on lie in flat tensors that stand end to end."""
    runs, begin = [], 0
    for rank, entry in parts:
        low, high = max(at, begin), min(at + count, begin + entry.numel)
        if low < high:
            runs.append((rank, entry, (low - begin, high - low)))
        begin += entry.numel
    return runs


def _sharded(ranks: Sequence[Rank], groups: Sequence[Group]) -> list[TensorToWrite]:
    """Stage 3: every rank holds an equal part of every parameter, the groups laid end to end."""
    made, at = [], 0
    for name, shape in (entry for group in groups for entry in group):
        count = math.prod(shape)
        part = -(-count // len(ranks))
        runs = []
        for number, rank in enumerate(ranks):
            wanted = max(0, min(part, count - number * part))
            runs += _overlaps([(rank, entry) for entry in rank.flats], at, wanted)
        made.append(_parameter(name, shape, runs))
        at += part
    _check_length(at, min(sum(entry.numel for entry in rank.flats) for rank in ranks), max(1, at))
    return made


def _check_length(used: int, there: int, padding: int) -> None:
    if not used <= there <= used + padding:
        raise BadInput(f"the flat shards hold {there:,} elements where the parameters have {used:,}")


def _parameter(name: str, shape: tuple[int, ...], runs: list[tuple[Rank, TensorEntry, Run]]) -> TensorToWrite:
    count = sum(run[1] for _, _, run in runs)
    if count != math.prod(shape):
        raise BadInput(f"{name} is incomplete: the shards hold {count:,} of {math.prod(shape):,} elements")

    def pieces() -> Iterator[torch.Tensor]:
        for rank, entry, (start, length) in runs:
            yield from rank.read(entry, start, length)

    def load() -> torch.Tensor:
        import torch

        return torch.cat([torch.empty(0), *pieces()]).reshape(shape)

    return TensorToWrite(name, shape, "float32", load, shares=name, pieces=pieces)


def _whole_tensors(found: Checkpoint, reader: TensorReader) -> list[TensorToWrite]:
    """Buffers and frozen parameters stand whole in the model states."""
    frozen = value_at(found.root, "frozen_param_shapes")
    named = [
        *_text_items(value_at(found.root, "buffer_names")),
        *(key for key, _ in pairs(frozen) if is_mapping(frozen)),
    ]
    entries = {entry.path: entry for entry in found.tensors}
    made = []
    for name in named:
        entry = entries.get(("frozen_param_fragments", name)) or entries.get(("module", name))
        if entry is None:
            raise BadInput(f"{found.path} names {name} and does not hold it")
        shape = integers(value_at(frozen, name)) if is_mapping(frozen) else None
        if shape is not None and shape != entry.shape:
            raise BadInput(f"{found.path} gives no state_dict: the frozen parameter {name} is spread over the ranks")
        reader.check(entry)
        made.append(to_write(reader, entry, name))
    return made


def _text_items(node: Any) -> list[str]:
    return [item for item in node if type(item) is str] if type(node) in (list, tuple) else []


def _tied(root: PickleNode, tensors: Sequence[TensorToWrite]) -> list[TensorToWrite]:
    """`shared_params`: which name stands for which other."""
    shared = value_at(root, "shared_params")
    known = {tensor.name: tensor for tensor in tensors}
    found = [(key, value) for key, value in pairs(shared)] if is_mapping(shared) else []
    return [
        replace(known[value], name=key)
        for key, value in found
        if type(key) is str and type(value) is str and value in known and key not in known
    ]
