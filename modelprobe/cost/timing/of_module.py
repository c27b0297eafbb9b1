"""Times of a module that is there already, as `modelprobe.profile` gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from modelprobe.cost.timing.layers.of_target import layer_times, profile_passes
from modelprobe.cost.timing.measure import ProfileResult, result_of, timed
from modelprobe.cost.timing.passes import TimingSetting
from modelprobe.environment import brief
from modelprobe.errors import BadInput
from modelprobe.tracing.module_tree import class_name
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace
from modelprobe.tracing.step_records import TrainingTrace
from modelprobe.tracing.training import record_training

GROUPINGS = ("layer", "operator")


def profile_module(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], seconds: float, setting: TimingSetting,
    by: str | None,
) -> ProfileResult:  # fmt: skip
    """A forward, or the step of `setting`, timed for about `seconds`; with `by` where the time goes.

    Raises BadInput for a setting that cannot be, ModelRaised.
    """
    if by not in (None, *GROUPINGS):
        raise BadInput(f"by={by!r} is no way to group times", f"choose one of {', '.join(GROUPINGS)}")
    if by is not None and setting.compiled:
        raise BadInput("by= looks into eager passes", "leave out compile=True")
    name, place = class_name(model), next((str(parameter.device) for parameter in model.parameters()), "cpu")
    env = {**brief(), "model": name, "device": place, "mode": "train" if setting.step else "eval"}
    told: dict[str, Any] = {"kwargs": kwargs, "device": "real", "notes": (), "env": env}
    raw = timed(model, *args, **told, seconds=seconds, setting=setting)
    recorded: Trace | TrainingTrace = (
        trace(model, *args, kwargs=kwargs)
        if setting.step is None
        else record_training(model, *args, kwargs=kwargs, freeze=setting.step.freeze)
    )
    found = result_of(raw, recorded, name, place)
    if by is None:
        return found
    passes = profile_passes(model, *args, **told, seconds=seconds, median_s=found.median_s, setting=setting)
    times = layer_times(recorded, passes, found.median_s, place.startswith("cuda"))
    return replace(found, layers=times.times(by, None, None))
