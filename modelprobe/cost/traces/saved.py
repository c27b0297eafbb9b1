"""Recorded runs as files, and such a file as the target of a command: the same figures, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelprobe.cost.data_dependent import CostBounds
from modelprobe.errors import BadInput
from modelprobe.files.recording import TraceFile, read_recording, write_recording
from modelprobe.tracing.records import ModuleTree, OpCall, TensorRef, Trace, numel
from modelprobe.tracing.step_records import MemoryTrace, TrainingTrace

SUFFIX = ".mptrace"

FORWARD, BOUNDS, TRAINING, MEMORY = "forward", "bounds", "training", "memory"
RECORDED_BY = {FORWARD: "flops", TRAINING: "training", MEMORY: "memory"}
"""Section -> the command whose --save-trace writes it."""

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}


@dataclass(frozen=True, slots=True)
class RecordedMemory:
    """Followed blocks of memory, and whose kernels and which optimizer they are of ("" for inference)."""

    trace: MemoryTrace
    like: str
    optimizer: str


def save_run(path: Path, force: bool, **sections: Any) -> None:
    """Write the sections `forward` (a Trace), `bounds`, `training`, `memory`; those that are there.

    Raises BadInput for another suffix than .mptrace, and where the file exists unless `force`.
    """
    if path.suffix != SUFFIX:
        raise BadInput(f"{path} is not named as a trace", f"name it with {SUFFIX}")
    write_recording(path, sections, force)


def load_forward(path: str) -> tuple[Trace, tuple[CostBounds, ...]]:
    """The forward pass of a trace file, and the bounds of what depends on data. Raises BadInput."""
    found = read_recording(path)
    trace = forward_in(found)
    _refuse_faults(path, _faults(trace))
    return trace, bounds_in(found)


def forward_in(found: TraceFile) -> Trace:
    """The forward pass that a file holds. Raises BadInput where it holds none."""
    trace: Trace = _section(found, FORWARD, Trace)
    return trace


def bounds_in(found: TraceFile) -> tuple[CostBounds, ...]:
    """The bounds of what depends on data; of a file without them none."""
    bounds: Any = found.get(BOUNDS, tuple[CostBounds, ...]) if BOUNDS in found.sections else ()
    return tuple(bounds)


def load_training(path: str) -> TrainingTrace:
    """The training step of a trace file. Raises BadInput."""
    step = training_in(read_recording(path))
    _refuse_faults(path, _faults(step.forward))
    _refuse_faults(path, _operator_faults(gradient.op for gradient in step.gradients))
    return step


def load_memory(path: str) -> RecordedMemory:
    """The followed memory of a trace file. Raises BadInput."""
    found = memory_in(read_recording(path))
    _refuse_faults(path, _memory_faults(found.trace))
    return found


def training_in(found: TraceFile) -> TrainingTrace:
    """The training step that a file holds. Raises BadInput where it holds none."""
    step: TrainingTrace = _section(found, TRAINING, TrainingTrace)
    return step


def memory_in(found: TraceFile) -> RecordedMemory:
    """The followed memory that a file holds. Raises BadInput where it holds none."""
    held: RecordedMemory = _section(found, MEMORY, RecordedMemory)
    return held


def _section(found: TraceFile, name: str, kind: Any) -> Any:
    if name not in found.sections:
        has = ", ".join(section for section in found.sections if section in RECORDED_BY) or "nothing"
        hint = f"`modelprobe {RECORDED_BY[name]} TARGET --save-trace FILE` records it"
        raise BadInput(f"{found.path} holds no recording for this question (it holds: {has})", hint)
    return found.get(name, kind)


def _refuse_faults(path: str, faults: Iterable[str]) -> None:
    for fault in faults:
        raise BadInput(f"{path} contradicts itself: {fault}", "record it again with --save-trace")


def _faults(trace: Trace) -> Iterable[str]:
    """What cannot be so in a recorded forward pass."""
    many, calls = len(trace.ops), len(trace.calls)
    if not trace.tree.modules:
        yield "it has no module"
    yield from _tree_faults(trace.tree)
    for at, call in enumerate(trace.calls):
        if not 0 <= call.first_op <= call.end_op <= many or not -1 <= call.parent < max(at, 1):
            yield f"call {at} of {call.path or 'the model'} lies outside the run"
    for op in trace.ops:
        if not -1 <= op.call < calls or not -1 <= op.composite < len(trace.composites):
            yield f"{op.name} belongs to no call"
    yield from _operator_faults(trace.ops)
    for block in trace.storages:
        if block.nbytes < 0 or not -1 <= block.made <= many or not -1 <= block.freed <= many:
            yield f"storage {block.number} of {block.nbytes:,} bytes lies outside the run"


def _tree_faults(tree: ModuleTree) -> Iterable[str]:
    for entry in tree.state:
        if entry.nbytes < 0 or min(entry.shape, default=0) < 0:
            yield f"{entry.path} has a negative size"
        elif not entry.lazy and ITEM_BYTES.get(entry.dtype, 0) * numel(entry.shape) > entry.nbytes:
            yield f"{entry.path} of {numel(entry.shape):,} elements has {entry.nbytes:,} bytes"


def _operator_faults(ops: Iterable[OpCall]) -> Iterable[str]:
    for op in ops:
        if min(op.macs, op.flops, op.bytes_read, op.bytes_written, op.bound, op.bytes_inside) < 0:
            yield f"{op.name} has a negative cost"
        for ref in (*op.inputs, *op.outputs, *op.side_writes):
            yield from _tensor_faults(op.name, ref)


def _tensor_faults(name: str, ref: TensorRef) -> Iterable[str]:
    if min(ref.shape, default=0) < 0 or ref.nbytes < 0:
        yield f"a tensor of {name} has a negative size"
    elif (
        ref.strides
        and ref.nbytes not in (0, ITEM_BYTES.get(ref.dtype, 0) * numel(ref.shape))
        and (ref.dtype in ITEM_BYTES)
    ):
        yield f"a tensor of {name} of {numel(ref.shape):,} elements has {ref.nbytes:,} bytes"


def _memory_faults(trace: MemoryTrace) -> Iterable[str]:
    many = len(trace.blocks)
    if not 0 <= trace.start <= len(trace.events) or trace.steps < 0:
        yield "its steps lie outside the run"
    for block in trace.blocks:
        if block.nbytes < 0:
            yield f"block {block.number} has a negative size"
    if any(not 0 <= event.block < many for event in trace.events):
        yield "an event is of no block"
