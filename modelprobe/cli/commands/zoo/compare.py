"""`modelprobe compare`: models side by side, in total, by kind of operator, or layer by layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli.options import (
    OUTPUT,
    TARGET,
    BatchOpt,
    InputOpt,
    ModelOptions,
    ReportOptions,
    ShapeOptions,
    is_trace_file,
    one_of,
    option,
    target_request,
)
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write, check_target

if TYPE_CHECKING:
    from modelprobe.tracing.records import Trace
    from modelprobe.zoo.compare import CompareResult

EXAMPLES = (
    "modelprobe compare resnet50 timm:resnet50d convnext_tiny",
    "modelprobe compare resnet18 resnet34 --by layer --depth 1",
)
DEFAULT_DEPTH = 2
PLOTTED = (
    ("parameters", "parameters"),
    ("macs", "MACs"),
    ("activations", "activations"),
    ("bytes_moved", "bytes moved"),
)

TargetsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET TARGET...",
        help="Two or more models, weight files or recorded runs (.mptrace), as for flops.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
ByLayerOpt = Annotated[
    str,
    option(
        "--by",
        metavar="model|layer",
        callback=one_of("--by", ("model", "layer")),
        panel=OUTPUT,
        help="layer aligns the module trees of two models and shows what changed.",
    ),
]
LayerDepthOpt = Annotated[
    int | None, option("--depth", "-d", metavar="N", min=0, panel=OUTPUT, help="Levels of modules under --by layer.")
]
ComparePlotOpt = Annotated[
    Path | None, option("--plot", metavar="FILE.png", panel=OUTPUT, help="Draw the costs as bars, of the largest each.")
]


def command(
    targets: TargetsArg,
    *,
    inputs: InputOpt = None,
    batch: BatchOpt = None,
    by: ByLayerOpt = "model",
    depth: LayerDepthOpt = None,
    plot: ComparePlotOpt = None,
    report: ReportOptions,
) -> None:
    """Parameters, MACs, FLOPs, activations, memory, layers, operators by kind and accuracy of several models.

    Every model gets the same --input, or its own default. With --by layer the module trees of two are aligned.
    """
    if len(targets) < 2:
        raise BadInput("compare needs two targets or more", "for example modelprobe compare resnet18 resnet34")
    if by == "layer" and len(targets) != 2:
        raise BadInput("--by layer aligns two models", f"name two of the {len(targets)}")
    if depth is not None and by != "layer":
        raise BadInput("--depth is for --by layer", "add --by layer")
    report.check()
    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise BadInput(f"--plot {plot} is not a PNG", "name it with .png")
        check_target(plot, force=report.force)
    from modelprobe.environment import brief
    from modelprobe.model.zoo.index import read_catalogue
    from modelprobe.report.blocks import ZOOS
    from modelprobe.zoo.compare import CompareResult, aligned_layers, compared

    catalogue, models, traces, notes = read_catalogue(), [], [], []
    for target in targets:
        trace = _run_of(target, inputs, batch)
        known = catalogue.get(f"{trace.env.get('origin')}:{trace.env.get('model')}")
        top1 = known.top1 if known is not None and not inputs and not is_trace_file(target) else None
        both = all(catalogue.get(f"{zoo}:{target}") is not None for zoo in ZOOS)
        models.append(compared(f"{trace.env['origin']}:{target}" if both else target, trace, top1))
        traces.append(trace)
        notes += [replace(note, text=f"{target}: {note.text}") for note in trace.notes]
    levels = report.depth(depth)
    levels = DEFAULT_DEPTH if levels is None else levels
    layers = aligned_layers(traces[0], traces[1], levels) if by == "layer" else ()
    result = CompareResult(tuple(models), layers, notes=tuple(notes), env=brief())
    report.emit((_charted(result, plot, report.force) if plot is not None else result).report())


def _run_of(target: str, inputs: list[str] | None, batch: str | None) -> Trace:
    """The forward pass of a target or of a trace file."""
    if is_trace_file(target):
        from modelprobe.cost.traces.saved import load_forward

        if inputs or batch:
            given = "--input" if inputs else "--batch"
            raise BadInput(f"{given} cannot change the run that {target} holds", "leave it out, or give the model")
        return load_forward(target)[0]
    from modelprobe.model.build import load_model, record

    loaded = load_model(target_request(ModelOptions(target=target), ShapeOptions(input=inputs), batch=batch))
    return record(loaded)


def _charted(result: CompareResult, path: Path, force: bool) -> CompareResult:
    """Write the bars."""
    from modelprobe.vision.pictures.curves import grouped_bars

    most = {key: max(getattr(model, key) for model in result.models) or 1 for key, _ in PLOTTED}
    series = [(m.target, [getattr(m, key) / most[key] for key, _ in PLOTTED]) for m in result.models]
    picture = grouped_bars([title for _, title in PLOTTED], series, "costs, of the largest each")
    atomic_write(path, picture, force=force)
    return replace(result, plot=str(path))
