"""`modelprobe profile`: how long a forward pass takes here, or is predicted to take on a GPU that is not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from modelprobe.cli.options import (
    COUNTING,
    ModelOptions,
    ReportOptions,
    RunOptions,
    is_trace_file,
    option,
    target_request,
)
from modelprobe.errors import BadInput

EXAMPLES = (
    "modelprobe profile samples/models.py:TinyCNN --seconds 0.2",
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
SecondsOpt = Annotated[
    float, option("--seconds", metavar="S", min=0.01, panel=COUNTING, help="About how long to take samples.")
]
ThreadsOpt = Annotated[int | None, option("--threads", metavar="N", panel=COUNTING, help="Threads on the CPU.")]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    predict: PredictOpt = None,
    device_spec: DeviceSpecOpt = None,
    seconds: SecondsOpt = 2.0,
    threads: ThreadsOpt = None,
    report: ReportOptions,
) -> None:
    """Time of a forward pass: measured here end to end, or with --predict from shapes alone on a GPU elsewhere."""
    report.check()
    if predict is not None and device_spec is not None:
        raise BadInput("--predict and --device-spec both name a device", "leave one of them out")
    if predict is not None or device_spec is not None:
        from modelprobe.cost.timing.predict import find_device, predict_time, read_device

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
        return
    from modelprobe.cost.timing.measure import profile_model
    from modelprobe.model.build import load_model

    here = replace(inputs, device=inputs.device or "cpu")
    report.emit(profile_model(load_model(target_request(model, here)), seconds, threads).report())
