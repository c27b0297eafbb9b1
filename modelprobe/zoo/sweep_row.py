"""One row of a sweep, made in a worker process."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from modelprobe.cost.memory.of_target import MemoryRequest, memory_of_target
from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.report.blocks import Level, Note, plain
from modelprobe.tracing.meta_results import shared_results

SECONDS_OF_A_MODEL = 1.0
"""Of samples, beside the first call and three samples at least."""


@shared_results()
def flops_row(target: str, inputs: Sequence[str], batch: int | None) -> dict[str, Any]:
    """Costs of a forward pass. Raises ProbeError where the model cannot be built or run."""
    loaded = load_model(TargetRequest(target, inputs=tuple(inputs), batch=batch))
    trace = record(loaded)
    return {
        "input": [list(ref.shape) for ref in trace.inputs],
        "parameters": trace.tree.parameter_count(),
        "macs": trace.macs,
        "flops": trace.flops,
        "activations": sum(op.activations for op in trace.ops),
        "uncounted": len(trace.uncounted),
        "notes": _notes_against(trace.notes),
    }


@shared_results()
def memory_row(target: str, inputs: Sequence[str], batch: int | None) -> dict[str, Any]:
    """The peak memory of inference, as `memory` says it. Raises ProbeError where the model cannot be built or run."""
    loaded = load_model(TargetRequest(target, inputs=tuple(inputs), batch=batch))
    found = memory_of_target(loaded, MemoryRequest())
    counted = loaded.tree.parameter_count()
    return {"parameters": counted, "memory": found.peak_bytes, "notes": _notes_against(found.notes)}


def profile_row(target: str, inputs: Sequence[str], batch: int | None) -> dict[str, Any]:
    """Time of a forward pass on this machine's CPU, random weights, beside its costs. Raises ProbeError."""
    from functools import partial

    from modelprobe.cost.timing.measure import run_timed, timed
    from modelprobe.cost.timing.passes import TimingSetting

    setting = TimingSetting()
    loaded = load_model(TargetRequest(target, inputs=tuple(inputs), batch=batch, device="cpu"))
    samples = run_timed(loaded, partial(timed, seconds=SECONDS_OF_A_MODEL, setting=setting), setting)
    first, median, third = statistics.quantiles(samples.samples_s, n=4)
    times = {"median_s": median, "iqr_s": third - first, "per_second": samples.batch / median}
    return {**flops_row(target, inputs, batch), **times}


def params_row(target: str, inputs: Sequence[str], batch: int | None) -> dict[str, Any]:
    """Parameters alone: nothing is run, and inputs do not matter."""
    loaded = load_model(TargetRequest(target))
    return {"parameters": loaded.tree.parameter_count(), "notes": _notes_against(loaded.notes)}


def _notes_against(notes: Iterable[Note]) -> list[dict[str, Any]]:
    """What stands against the figures of a row, as `--strict` of one model heeds it."""
    return [plain(note) for note in notes if note.level is not Level.INFO]
