"""Recording the memory of a target that a command was given: one run, several batches, the largest that fits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from modelprobe.console import progress, stdout_kept
from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.estimate import MemoryResult, estimate_of
from modelprobe.cost.memory.fits import MAX_BATCH, largest_batch
from modelprobe.cost.memory.request import MemoryRequest as MemoryRequest
from modelprobe.cost.memory.steps import step_setting
from modelprobe.cost.traces.saved import RecordedMemory
from modelprobe.cost.training_step import frozen_names, trained_with
from modelprobe.errors import BadInput, ProbeError
from modelprobe.model.build import LoadedModel, record, record_with
from modelprobe.model.inputs.series import lost_batch
from modelprobe.report.blocks import Level, Note
from modelprobe.report.units import size
from modelprobe.tracing.failures import LoneValueError

PROBED_BATCH = 7
"""The batch that is recorded to see whether outputs have it: few networks have other axes of such a size."""


def memory_of_target(loaded: LoadedModel, asked: MemoryRequest) -> MemoryResult:
    """The memory of one run."""
    return estimated(recorded_memory(loaded, asked), asked.context, loaded.target.name)


def estimated(recorded: RecordedMemory, context: int, model: str = "") -> MemoryResult:
    """The memory of a recorded run."""
    like, optimizer = recorded.like, recorded.optimizer
    return estimate_of(recorded.trace, like=like, optimizer=optimizer, context=context, model=model)


@stdout_kept()
def recorded_memory(loaded: LoadedModel, asked: MemoryRequest) -> RecordedMemory:
    """The run recorded; of two examples where batch norm refuses to train on one that nobody asked for."""
    step = None
    if asked.train:
        step = step_setting(asked.optimizer, frozen_names(loaded.model, asked.freeze), asked.like)
        step = replace(step, loss=asked.loss, checkpointed=asked.checkpointed, accumulate=asked.accumulate)
    recording = partial(record_memory, step=step, like=asked.like, amp=asked.amp)
    found = trained_with(loaded, recording) if asked.train else record_with(loaded, recording, "eval")
    return RecordedMemory(found, asked.like, asked.optimizer if asked.train else "")


def of_batch(loaded: LoadedModel, batch: int, asked: MemoryRequest) -> MemoryResult:
    """The memory of that batch."""
    return memory_of_target(replace(loaded, request=replace(loaded.request, batch=batch)), asked)


def memory_by_batch(loaded: LoadedModel, batches: Sequence[int], asked: MemoryRequest) -> tuple[MemoryResult, ...]:
    """The memory of each of these batches, each recorded."""
    with progress("batches", len(batches)) as done:
        found = []
        for batch in batches:
            found.append(of_batch(loaded, batch, asked))
            done()
    return tuple(found)


def _warned_of_batch(loaded: LoadedModel) -> tuple[Note, ...]:
    """What a recording says of a batch that no output has."""
    probed = replace(loaded, request=replace(loaded.request, batch=PROBED_BATCH))
    with suppress(ProbeError):  # a batch that is too large for a run for real
        return lost_batch(record(probed), PROBED_BATCH)
    return ()


def memory_that_fits(loaded: LoadedModel, limit: int, asked: MemoryRequest) -> MemoryResult:
    """The memory of the largest batch within `limit` bytes. Raises BadInput when the batch is fixed, or none fits."""
    found: dict[int, MemoryResult] = {}

    def needed(batch: int) -> int:
        try:
            found[batch] = of_batch(loaded, batch, asked)
        except BadInput as error:
            said, fixed, given = error.message.partition(" contradicts ")
            fixed_by = given if fixed else said.partition("--batch cannot change ")[2]
            if fixed_by:
                hint = "give the shape of one example, with a leading 1: --input 1x…"
                raise BadInput(f"--fits tries batches, and {fixed_by} has one of its own", hint) from error
            if said.endswith("takes no inputs"):
                raise BadInput(f"--fits tries batches, and {said.partition(': ')[2]}", "leave --fits out") from error
            raise
        return found[batch].needed_bytes

    if loaded.request.inputs_from is not None:
        raise BadInput("--inputs-from fixes the batch", "--fits needs inputs by shape: give --input")
    state = sum(entry.nbytes for entry in loaded.tree.unique_state())
    if state > limit:
        raise BadInput(
            f"weights and buffers alone take {size(state)}, {size(state - limit)} more than {size(limit)}",
            "--dtype bfloat16 halves them"
            if state <= 2 * limit
            else "half of them, by --dtype bfloat16, are too many too",
        )
    try:
        batch = largest_batch(needed, limit)
    except LoneValueError:
        batch = largest_batch(needed, limit, smallest=2)
    fitting = replace(found[batch], notes=(*found[batch].notes, *_warned_of_batch(loaded)))
    if batch >= MAX_BATCH:
        text = f"{batch:,} is where the search ends: a larger batch fits too."
        fitting = replace(fitting, notes=(Note(text, Level.WARNING), *fitting.notes))
    return replace(fitting, largest_batch=batch, limit_bytes=limit)
