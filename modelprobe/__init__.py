"""modelprobe: what a PyTorch model costs and what a weight file holds.

The names below are resolved when they are first used: importing modelprobe does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelprobe._version import __version__ as __version__

if TYPE_CHECKING:
    from modelprobe.api import (
        count_flops,
        count_params,
        count_training,
        estimate_memory,
        list_buffers,
        load_trace,
        profile,
        save_trace,
        summarize,
        trace,
    )
    from modelprobe.checkpoint.open import open_checkpoint
    from modelprobe.errors import ProbeError
    from modelprobe.inside.divergence.of_targets import find_divergence
    from modelprobe.inside.health.batch_health import check_health
    from modelprobe.tracing.capture import capture
    from modelprobe.tracing.formulas import Cost, formula
    from modelprobe.tracing.records import Trace
    from modelprobe.vision.cam.cam import cam
    from modelprobe.vision.cam.judge import Judgement, judge_map
    from modelprobe.vision.cam.methods import ClassMap
    from modelprobe.vision.functions import attention, extract_features, predict

_HOMES = {
    "ClassMap": "modelprobe.vision.cam.methods",
    "Cost": "modelprobe.tracing.formulas",
    "ProbeError": "modelprobe.errors",
    "Trace": "modelprobe.tracing.records",
    "assert_cost": "modelprobe.api",
    "attention": "modelprobe.vision.functions",
    "check_health": "modelprobe.inside.health.batch_health",
    "capture": "modelprobe.tracing.capture",
    "cam": "modelprobe.vision.cam.cam",
    "count_flops": "modelprobe.api",
    "count_params": "modelprobe.api",
    "count_training": "modelprobe.api",
    "estimate_memory": "modelprobe.api",
    "extract_features": "modelprobe.vision.functions",
    "find_divergence": "modelprobe.inside.divergence.of_targets",
    "formula": "modelprobe.tracing.formulas",
    "Judgement": "modelprobe.vision.cam.judge",
    "judge_map": "modelprobe.vision.cam.judge",
    "open_checkpoint": "modelprobe.checkpoint.open",
    "list_buffers": "modelprobe.api",
    "load_trace": "modelprobe.api",
    "predict": "modelprobe.vision.functions",
    "profile": "modelprobe.api",
    "save_trace": "modelprobe.api",
    "summarize": "modelprobe.api",
    "trace": "modelprobe.api",
}

__all__ = [
    "ClassMap",
    "Cost",
    "Judgement",
    "ProbeError",
    "Trace",
    "assert_cost",
    "attention",
    "cam",
    "capture",
    "check_health",
    "count_flops",
    "count_params",
    "count_training",
    "estimate_memory",
    "extract_features",
    "find_divergence",
    "formula",
    "judge_map",
    "list_buffers",
    "load_trace",
    "open_checkpoint",
    "predict",
    "profile",
    "save_trace",
    "summarize",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelprobe' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
