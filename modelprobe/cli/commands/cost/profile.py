"""`modelprobe profile`: how long a pass takes here, which of two is faster, and a prediction for a GPU elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.cli.layer_options import LayerOptions
from modelprobe.cli.options import (
    COUNTING,
    INPUT,
    TARGET,
    ModelOptions,
    ReportOptions,
    RunOptions,
    is_trace_file,
    option,
    target_request,
)
from modelprobe.cli.timing_options import AgainstOptions, SecondsOpt, TimingOptions
from modelprobe.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from modelprobe.cost.timing.batches import BatchTimes
    from modelprobe.cost.timing.measure import ProfileResult

EXAMPLES = (
    "modelprobe profile samples/models.py:TinyCNN --by layer --flame flame.html --seconds 0.2",
    "modelprobe profile samples/models.py:TinyCNN --against samples/models.py:TinyCNN --set-b width=64 --seconds 0.1",
    "modelprobe profile resnet18 --predict rtx4090 --batch 256",
)

PredictOpt = Annotated[
    str | None,
    option("--predict", metavar="DEVICE", panel=COUNTING, help="Predict the time on a GPU: rtx3090, rtx4090, …"),
]
DeviceSpecOpt = Annotated[
    Path | None,
    option("--device-spec", metavar="FILE.json", panel=COUNTING, help="Predict with constants of your own."),
]

FitOpt = Annotated[
    Path | None,
    option(
        "--fit",
        metavar="DEVICE.csv",
        panel=COUNTING,
        help="Make constants for --device-spec from times that were measured: model, batch, step_ms. Without TARGET.",
    ),
]
BatchesOpt = Annotated[
    str | None,
    option("--batch", "-b", metavar="N[,N]|auto", panel=INPUT, help="Examples in the batch; auto: most per second."),
]
MaybeTargetArg = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What to time: resnet50, timm:vit_base_patch16_224, net.py:Net, package.module:factory, or a weight file.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ProfiledModel(ModelOptions):
    """Which model; none beside --fit."""

    target: MaybeTargetArg = ""


@dataclass(frozen=True, kw_only=True)
class ProfiledInputs(RunOptions):
    """What the model is given, of one batch or several, and how it runs."""

    batch: BatchesOpt = None


def command(
    model: ProfiledModel,
    inputs: ProfiledInputs,
    *,
    seconds: SecondsOpt = 2.0,
    timing: TimingOptions,
    against: AgainstOptions,
    layers: LayerOptions,
    predict: PredictOpt = None,
    device_spec: DeviceSpecOpt = None,
    fit: FitOpt = None,
    report: ReportOptions,
) -> None:
    """Time of a forward pass or a training step: measured here end to end, against another, or predicted for a GPU."""
    report.check()
    if fit is not None:
        _fit(fit, (model, inputs, timing, against, layers), predict or device_spec, report)
        return
    if not model.target:
        raise BadInput("missing argument 'TARGET'", "modelprobe profile --help shows what it takes")
    layers.check(report.force)
    two = against.is_asked()
    if predict is not None or device_spec is not None:
        elsewhere = inputs.device not in (None, "meta")
        if two or layers.are_given or elsewhere or timing != TimingOptions():
            given = {"--against": two, "--by": layers.are_given, "--device": elsewhere}
            named = next((name for name, is_given in given.items() if is_given), "") or timing.first_given()
            raise BadInput("a prediction measures nothing", f"leave out {named}")
        _predict(model, inputs, predict, device_spec, report)
        return
    here = replace(inputs, device=inputs.device or "cpu")
    if two and layers.are_given:
        raise BadInput("--against times two, and --by looks into one", "leave one of them out")
    if two:
        _timed_in_turn(model, here, timing, against, seconds, report)
        return
    found = _timed_here(model, here, timing, layers, seconds, report)
    report.emit(found.report())
    if found.interrupted:
        raise KeyboardInterrupt


def _fit(path: Path, groups: tuple[Any, ...], predicted: object, report: ReportOptions) -> None:
    if predicted or any(group != type(group)() for group in groups):
        raise BadInput("--fit takes measured times from a file, and runs nothing", "leave out TARGET and its options")
    from modelprobe.cost.timing.device_fit import fit_device

    report.emit(fit_device(path).report())


def _timed_here(
    model: ModelOptions, here: RunOptions, timing: TimingOptions, layers: LayerOptions, seconds: float,
    report: ReportOptions,
) -> ProfileResult | BatchTimes:  # fmt: skip
    from modelprobe.cost.timing.batches import profile_batches, profile_one
    from modelprobe.model.build import load_model
    from modelprobe.model.inputs.series import parse_batches

    batches = () if here.batch == "auto" else parse_batches(here.batch)
    several = here.batch == "auto" or len(batches) > 1
    setting, run = timing.setting(), timing.run()
    if layers.are_given and (several or timing.compile or timing.cuda_graph):
        raise BadInput(
            "--by looks into eager passes of one batch", "leave out --compile, --cuda-graph, several batches"
        )
    if timing.train and layers.plot:
        raise BadInput("--plot draws the roofline of a forward", "leave out --train, or --plot")
    loaded = load_model(target_request(model, replace(here, batch=None) if several else here))
    if several:
        return profile_batches(loaded, batches, seconds, setting, run)
    found = profile_one(loaded, seconds, setting, run)
    return found if found.interrupted else layers.applied(found, loaded, seconds, setting, run, report)


def _timed_in_turn(
    model: ModelOptions, here: RunOptions, timing: TimingOptions, against: AgainstOptions, seconds: float,
    report: ReportOptions,
) -> None:  # fmt: skip
    from modelprobe.cost.timing.against import profile_against
    from modelprobe.model.build import load_model
    from modelprobe.report.amounts import parse_share

    if here.batch is not None and not here.batch.strip().isdigit():
        raise BadInput(f"--against times one batch, and --batch is {here.batch!r}", "for example --batch 8")
    tolerance = None
    if against.fail_if_slower is not None:
        tolerance = parse_share(against.fail_if_slower, "--fail-if-slower")
    other, inputs, other_timing = against.other(model, here, timing)
    loaded = load_model(target_request(model, here)), load_model(target_request(other, inputs))
    settings = timing.setting(), other_timing.setting()
    found = profile_against(*loaded, settings, seconds=seconds, tolerance=tolerance, run=timing.run())
    report.emit(found.report())
    if found.interrupted:
        raise KeyboardInterrupt
    if found.exceeded:
        raise CheckFailed(
            f"{found.first.name} is slower by more than {tolerance:.1%}: by {found.interval[0] - 1:.1%} or more",
            "the table has both times; -f json has all samples",
        )


def _predict(
    model: ModelOptions, inputs: RunOptions, predict: str | None, device_spec: Path | None, report: ReportOptions
) -> None:
    from modelprobe.cost.timing.predict import find_device, predict_time, read_device

    if predict is not None and device_spec is not None:
        raise BadInput("--predict and --device-spec both name a device", "leave one of them out")
    if inputs.batch is not None and not inputs.batch.strip().isdigit():
        raise BadInput(f"a prediction is of one batch, and --batch is {inputs.batch!r}", "for example --batch 256")
    device = find_device(predict) if predict is not None else read_device(Path(device_spec or ""))
    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options
        from modelprobe.cost.traces.saved import load_forward

        refuse_model_options(model, inputs)
        trace, _ = load_forward(model.target)
    else:
        from modelprobe.model.build import load_model, record

        trace = record(load_model(target_request(model, inputs)))
    report.emit(predict_time(trace, device).report())
