"""Profiled passes of a target, set against its recorded forward and its time without a profiler."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from modelprobe.console import stdout_kept, working
from modelprobe.cost.timing.layers.align import aligned_pieces
from modelprobe.cost.timing.layers.profiled import Event, profiled_passes
from modelprobe.cost.timing.layers.times import Reconciled, reconciled
from modelprobe.cost.timing.measure import ProfileResult
from modelprobe.cost.timing.passes import TimingSetting, prepare_pass
from modelprobe.errors import BadInput
from modelprobe.model.build import LoadedModel, record, record_with
from modelprobe.report.blocks import Note

LEAST_PASSES, MOST_PASSES = 4, 40


@dataclass(frozen=True)
class ProfiledTarget:
    """The times of all pieces, and torch's profiler with its last pass (for `--trace`)."""

    times: Reconciled
    profiler: Any


@stdout_kept()
def profile_layers(loaded: LoadedModel, whole: ProfileResult, seconds: float, setting: TimingSetting) -> ProfiledTarget:
    """Where the time goes that `whole` measured: passes under the profiler, and plain ones before and after.

    Raises BadInput when the profiler saw nothing.
    """
    count = max(LEAST_PASSES, min(MOST_PASSES, round(seconds / 2 / whole.median_s)))
    with working(f"profiling {loaded.target.name}"):
        trees, profiler, plain_s = record_with(loaded, partial(_profiled, count=count, setting=setting), "eval")
    if not trees:
        raise BadInput(
            "torch's profiler saw nothing of the run", "another profiler may be active in this process; stop it first"
        )
    trace = record(loaded)
    on_gpu = whole.device.startswith("cuda")
    pieces = [aligned_pieces(trace, tree) for tree in trees]
    return ProfiledTarget(reconciled(trace, pieces, whole.median_s, on_gpu, plain_s), profiler)


def _profiled(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note],
    env: Mapping[str, Any], count: int, setting: TimingSetting,
) -> tuple[list[Event], Any, float]:  # fmt: skip
    one = prepare_pass(model, *args, kwargs=kwargs, device=device, notes=notes, env=env, setting=setting)
    with closing(one), one.active():
        before = [one.seconds(1) for _ in range(count)]
        trees, profiler = profiled_passes(model, one.step, one.wait, count)
        return trees, profiler, statistics.median([*before, *(one.seconds(1) for _ in range(count))])
