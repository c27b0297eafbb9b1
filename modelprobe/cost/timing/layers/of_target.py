"""Profiled passes of a target, set against its recorded forward and its time without a profiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from modelprobe.console import stdout_kept, working
from modelprobe.cost.timing.layers.align import aligned_pieces
from modelprobe.cost.timing.layers.profiled import BLOCK, ProfiledPasses, profiled_passes
from modelprobe.cost.timing.layers.step import ledger_of_step, step_pieces
from modelprobe.cost.timing.layers.times import Reconciled, reconciled
from modelprobe.cost.timing.measure import ProfileResult, run_timed
from modelprobe.cost.timing.passes import TimingSetting, prepare_pass
from modelprobe.cost.training_step import trained_with
from modelprobe.errors import BadInput
from modelprobe.model.build import LoadedModel, record
from modelprobe.report.blocks import Note
from modelprobe.tracing.records import Trace
from modelprobe.tracing.step_records import TrainingTrace
from modelprobe.tracing.training import record_training

LEAST_BLOCKS, MOST_BLOCKS = 2, 20


@dataclass(frozen=True)
class ProfiledTarget:
    """The times of all pieces, and torch's profiler with its last passes (for `--trace`)."""

    times: Reconciled
    profiler: Any


@stdout_kept()
def profile_layers(loaded: LoadedModel, whole: ProfileResult, seconds: float, setting: TimingSetting) -> ProfiledTarget:
    """Where the time goes that `whole` measured: passes under the profiler for about `seconds`.

    Raises BadInput when the profiler saw nothing.
    """
    profiling = partial(profile_passes, seconds=seconds, median_s=whole.median_s, setting=setting)
    with working(f"profiling {loaded.target.name}"):
        passes = run_timed(loaded, profiling, setting)
    on_gpu = whole.device.startswith("cuda")
    step = setting.step
    trace = record(loaded) if step is None else trained_with(loaded, partial(record_training, freeze=step.freeze))
    return ProfiledTarget(layer_times(trace, passes, whole.median_s, on_gpu), passes.profiler)


def layer_times(trace: Trace | TrainingTrace, passes: ProfiledPasses, median_s: float, on_gpu: bool) -> Reconciled:
    """The pieces of the recorded forward or step with their times. Raises BadInput when the profiler saw nothing."""
    if not passes.trees:
        raise BadInput(
            "torch's profiler saw nothing of the run", "another profiler may be active in this process; stop it first"
        )
    if isinstance(trace, Trace):
        return reconciled(
            trace, [aligned_pieces(trace, tree) for tree in passes.trees], median_s, on_gpu, passes.slower
        )
    ledger = ledger_of_step(trace)
    pieces = [step_pieces(trace, ledger, tree) for tree in passes.trees]
    return reconciled(ledger, pieces, median_s, on_gpu, passes.slower)


def profile_passes(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note],
    env: Mapping[str, Any], seconds: float, median_s: float, setting: TimingSetting,
) -> ProfiledPasses:  # fmt: skip
    """Passes under torch's profiler for about `seconds`, where a plain one takes `median_s`."""
    blocks = max(LEAST_BLOCKS, min(MOST_BLOCKS, round(seconds / (2 * BLOCK) / median_s)))
    one = prepare_pass(model, *args, kwargs=kwargs, device=device, notes=notes, env=env, setting=setting)
    with closing(one), one.active():
        return profiled_passes(model, one.step, one.wait, blocks)
