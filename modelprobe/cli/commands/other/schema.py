"""`modelprobe schema`: the JSON Schema of what a command prints with `-f json`."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from typing import Annotated, Any

import typer

from modelprobe.cli.options import TARGET
from modelprobe.console import write_text
from modelprobe.errors import BadInput

EXAMPLES = (
    "modelprobe schema",
    "modelprobe schema scan",
)

RESULTS = {
    # the `schema` of a report -> the class of its result
    "modelprobe.flops/1": "cost.flops:FlopsResult",
    "modelprobe.flops-convention/1": "cost.conventions.report:ConventionCost",
    "modelprobe.flops-train/1": "cost.training:TrainingResult",
    "modelprobe.flops-compare/1": "cost.other_tools.comparison:ToolComparison",
    "modelprobe.scaling/1": "cost.scaling.scaling:Scaling",
    "modelprobe.memory/1": "cost.memory.estimate:MemoryResult",
    "modelprobe.memory_by_batch/1": "cost.memory.estimate:MemoryByBatch",
    "modelprobe.memory_plan/1": "cost.memory.plan:MemoryPlan",
    "modelprobe.profile/1": "cost.timing.measure:ProfileResult",
    "modelprobe.profile-batches/1": "cost.timing.batches:BatchTimes",
    "modelprobe.prediction/1": "cost.timing.predict:PredictionResult",
    "modelprobe.against/1": "cost.timing.against:AgainstResult",
    "modelprobe.device/1": "cost.timing.device_fit:FittedDevice",
    "modelprobe.trace/1": "cost.traces.operators:OperatorList",
    "modelprobe.graph/1": "graph.graph:ModelGraph",
    "modelprobe.summary/1": "cost.summary:Summary",
    "modelprobe.params/1": "cost.params:ParamsResult",
    "modelprobe.parameter-groups/1": "cost.optimizers.groups:GroupsResult",
    "modelprobe.initialization/1": "inside.health.initialized:InitializationResult",
    "modelprobe.buffers/1": "cost.buffers:BuffersResult",
    "modelprobe.features/1": "vision.features.features:FeaturesResult",
    "modelprobe.predict/1": "vision.predict:PredictResult",
    "modelprobe.cam/1": "vision.cam.result:CamResult",
    "modelprobe.images/1": "vision.survey:SurveyResult",
    "modelprobe.attention/1": "vision.attention.result:AttentionResult",
    "modelprobe.divergence/1": "inside.divergence.result:DivergenceResult",
    "modelprobe.health/1": "inside.health.batch_health:BatchHealthResult",
    "modelprobe.file-health/1": "inside.health.file_health:FileHealthResult",
    "modelprobe.weights/2": "checkpoint.answers.summary:WeightsSummary",
    "modelprobe.scan/3": "checkpoint.answers.scan:ScanResult",
    "modelprobe.keys/2": "model.weights.keys_result:KeysResult",
    "modelprobe.repair/2": "model.weights.repair_result:RepairResult",
    "modelprobe.diff/1": "checkpoint.answers.diff:WeightsDiff",
    "modelprobe.convert/2": "checkpoint.answers.convert:Conversion",
    "modelprobe.compare/1": "zoo.compare:CompareResult",
    "modelprobe.cache/1": "files.store_report:CacheResult",
    "modelprobe.check/1": "cost.budgets.check:CheckResult",
    "modelprobe.models/2": "zoo.models:ModelsResult",
    "modelprobe.identify/1": "zoo.identify:IdentifyResult",
    "modelprobe.sweep/1": "zoo.sweep:SweepResult",
    "modelprobe.index/1": "zoo.index_report:IndexResult",
    "modelprobe.env/1": "environment:EnvResult",
}
COMPOSED = {
    "modelprobe.report/1": {
        "flops": "flops/1", "summary": "summary/1", "operators": "flops/1", "params": "params/1",
        "environment": "env/1", "graph": "graph/1",
    },
    "modelprobe.features.list/1": {"layers": ""},
}  # fmt: skip
"""Reports that hold others under these keys, or a list that is no class."""
NAMES = (*RESULTS, *COMPOSED)

NameArg = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="What stands under `schema` in the JSON: modelprobe.flops/1, or flops for short.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


def command(name: NameArg = "") -> None:
    """The JSON Schema of what -f json prints, by the NAME that stands under `schema` there; without one, all names."""
    if not name:
        write_text(sys.stdout, "\n".join(NAMES) + "\n")
        return
    short = {full.removeprefix("modelprobe.").partition("/")[0]: full for full in reversed(NAMES)}
    full = name if name in NAMES else short.get(name.removeprefix("modelprobe."))
    if full is None:
        near = difflib.get_close_matches(name, [*NAMES, *short], n=1)
        hint = f"did you mean {near[0]}?" if near else "`modelprobe schema` lists the names"
        raise BadInput(f"there is no schema {name!r}", hint)
    write_text(sys.stdout, json.dumps(json_schema(full), indent=2) + "\n")


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of that name."""
    from modelprobe.report.json_schema import schema_of_report

    if name not in COMPOSED:
        return schema_of_report(name, _result_class(name))
    parts = {key: _result_class(f"modelprobe.{part}") if part else list for key, part in COMPOSED[name].items()}
    return schema_of_report(name, parts)


def _result_class(name: str) -> type:
    module, _, cls = RESULTS[name].partition(":")
    found: type = getattr(importlib.import_module(f"modelprobe.{module}"), cls)
    return found
