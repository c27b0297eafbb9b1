"""Recording the memory of a target that a command was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from modelprobe.console import stdout_kept
from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.estimate import MemoryResult, estimate_of, step_setting
from modelprobe.cost.memory.fits import largest_batch
from modelprobe.cost.training import frozen_names
from modelprobe.errors import BadInput
from modelprobe.model.build import LoadedModel, record_with
from modelprobe.model.inputs.training_targets import with_targets
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.failures import LoneValueError


@stdout_kept()
def memory_of_target(
    loaded: LoadedModel, *, train: bool, optimizer: str, freeze: Sequence[str], like: str, context: int
) -> MemoryResult:
    """The memory of one run; of two examples where batch norm refuses to train on one that nobody asked for."""
    step = step_setting(optimizer, frozen_names(loaded.model, freeze), like) if train else None
    recording = partial(record_memory, step=step, like=like)
    complete = with_targets if train else None
    try:
        found = record_with(loaded, recording, "train" if train else "eval", complete)
    except LoneValueError:
        asked = loaded.request
        if asked.batch is not None or asked.inputs or asked.inputs_from is not None:
            raise
        text = "A batch of 2 was assumed: batch norm cannot train on the single values of one example."
        pair = replace(asked, batch=2)
        loaded = replace(loaded, request=pair, notes=(*loaded.notes, Note(text, Level.ASSUMED)))
        found = record_with(loaded, recording, "train", complete)
    return estimate_of(found, like=like, optimizer=optimizer, context=context, model=loaded.target.name)


@stdout_kept()
def fitted(
    loaded: LoadedModel, limit: int, *, train: bool, optimizer: str, freeze: Sequence[str], like: str, context: int
) -> MemoryResult:
    """The memory of the largest batch within `limit` bytes. Raises BadInput when the batch is fixed, or none fits."""
    found: dict[int, MemoryResult] = {}

    def needed(batch: int) -> int:
        asked = replace(loaded, request=replace(loaded.request, batch=batch))
        found[batch] = memory_of_target(
            asked, train=train, optimizer=optimizer, freeze=freeze, like=like, context=context
        )
        return found[batch].needed_bytes

    if loaded.request.inputs_from is not None:
        raise BadInput("--inputs-from fixes the batch", "--fits needs inputs by shape: give --input")
    state = sum(entry.nbytes for entry in loaded.tree.unique_state())
    if state > limit:
        from modelprobe.report.units import size

        raise BadInput(
            f"weights and buffers alone take {size(state)}, {size(state - limit)} more than {size(limit)}",
            "--dtype bfloat16 halves them",
        )
    try:
        batch = largest_batch(needed, limit)
    except LoneValueError:
        batch = largest_batch(needed, limit, smallest=2)
    return replace(found[batch], largest_batch=batch, limit_bytes=limit)
