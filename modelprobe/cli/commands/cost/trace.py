"""`modelprobe trace`: every operator of a forward pass in order; the recorded run as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from modelprobe.cli.options import (
    COUNTING,
    INPUT,
    MODEL,
    TRACE_SUFFIX,
    ModelOptions,
    ModeOpt,
    ReportOptions,
    RunOptions,
    is_trace_file,
    option,
    target_request,
)
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from modelprobe.model.build import LoadedModel, TargetRequest
    from modelprobe.tracing.records import OperatorValues, Trace

EXAMPLES = (
    "modelprobe trace resnet18 --module layer4 --operator conv*",
    "modelprobe trace resnet18 -o resnet18.mptrace",
    "modelprobe trace samples/models.py:TinyCNN --device cpu -f jsonl",
)

ModulePatternOpt = Annotated[
    list[str] | None,
    option("--module", metavar="PATTERN", panel=COUNTING, help="Operators inside modules: 'layer4.*'. Repeatable."),
]
OperatorPatternOpt = Annotated[
    list[str] | None,
    option("--operator", metavar="PATTERN", panel=COUNTING, help="Operators of a name: 'conv*'. Repeatable."),
]
ValueImageOpt = Annotated[
    str | None,
    option("--image", metavar="FILE", panel=INPUT, help="Run on an image, prepared as the model takes it."),
]
ValueWeightsOpt = Annotated[
    str | None,
    option("--weights", metavar="random|pretrained|FILE", panel=MODEL, help="Weights of a run for real."),
]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    mode: ModeOpt = "eval",
    module: ModulePatternOpt = None,
    operator: OperatorPatternOpt = None,
    image: ValueImageOpt = None,
    weights: ValueWeightsOpt = None,
    report: ReportOptions,
) -> None:
    """Every operator of a forward pass in order, with module, shapes, MACs and bytes; of a run for real (--device cpu,
    --image, --weights) also values. `-o run.mptrace` keeps the run as a file, which flops, summary and trace take in
    place of the model, without torch."""
    kept = report.output if report.output is not None and report.output.suffix == TRACE_SUFFIX else None
    shown = replace(report, output=None) if kept is not None else report
    shown.check()
    from modelprobe.cost.traces.operators import operators_of

    values = None
    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options
        from modelprobe.cost.traces.saved import load_forward

        refuse_model_options(model, inputs, mode=mode != "eval", image=bool(image), weights=bool(weights))
        trace, bounds = load_forward(model.target)
    else:
        from modelprobe.cost.data_dependent import cost_bounds

        loaded, trace, values = _run(target_request(model, inputs), image, weights, mode == "train")
        bounds = cost_bounds(loaded.model, trace)
    found = operators_of(trace, module or (), operator or (), values)
    if kept is not None:
        from modelprobe.cost.traces.saved import save_run

        save_run(kept, report.force, forward=trace, bounds=bounds)
    shown.emit(found.report())


def _run(
    request: TargetRequest, image: str | None, weights: str | None, train: bool
) -> tuple[LoadedModel, Trace, Mapping[int, OperatorValues] | None]:
    """The recorded run; for real, with the values of its operators, where a device, an image or weights were given."""
    from modelprobe.model.build import load_model, record

    if image is None and weights is None and request.device in (None, "meta"):
        loaded = load_model(request)
        return loaded, record(loaded, train=train), None
    from modelprobe.checkpoint.file_names import names_weights
    from modelprobe.inside.values import WatchedValues

    if weights is None and names_weights(request.target):
        weights = "pretrained"
    if request.device not in (None, "cpu") and (image or weights):
        raise BadInput("--image and --weights are for a run on the CPU", "give --device cpu, or leave it out")
    watched = WatchedValues()
    if image is not None:
        if request.inputs or request.inputs_from or request.batch is not None:
            raise BadInput("--image says all of the input", "leave out --input, --inputs-from and --batch")
        loaded, trace = _run_on_image(replace(request, weights=weights or "random"), image, train, watched)
    else:
        loaded = load_model(replace(request, weights=weights, device="cpu" if weights else request.device))
        said = (*loaded.notes, *(() if request.inputs_from else (Note(RANDOM_INPUT, Level.ASSUMED),)))
        loaded = replace(loaded, notes=said)
        trace = record(loaded, train=train, follow=watched)
    if weights is None:
        trace = replace(trace, notes=(*trace.notes, Note("The weights are random: give --weights.", Level.ASSUMED)))
    return loaded, trace, watched.values


RANDOM_INPUT = "The input is random numbers: give --image or --inputs-from for values that mean something."


def _run_on_image(request: TargetRequest, image: str, train: bool, follow: Any) -> tuple[LoadedModel, Trace]:
    from modelprobe.tracing.recorder import trace
    from modelprobe.vision.image_model import ImageModelRequest, load_image_model

    model = load_image_model(ImageModelRequest(request))
    photo = model.open(Path(image))
    loaded = model.loaded
    notes = (*model.notes, *model.preprocessing.notes_on(photo))
    env = {**loaded.env, "image": image, "mode": "train" if train else "eval"}
    given = model.arguments(photo)
    return loaded, trace(model.model, *given, device="real", train=train, notes=notes, env=env, follow=follow)
