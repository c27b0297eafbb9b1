"""`modelprobe scaling`: MACs against input size and batch: a table of points, the polynomial through them, a plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import (
    INPUT,
    OUTPUT,
    DeviceOpt,
    FusedOpt,
    ModelOptions,
    ReportOptions,
    ShapeOptions,
    option,
    target_request,
)
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write

if TYPE_CHECKING:
    from modelprobe.cost.scaling.scaling import Scaling

EXAMPLES = (
    "modelprobe scaling vit_b_16 --input 224,384,512",
    "modelprobe scaling resnet18 --batch 1,2,4 --plot batches.png",
)

BatchesOpt = Annotated[
    str | None,
    option(
        "--batch",
        "-b",
        metavar="N[,N...]",
        panel=INPUT,
        help="Examples in the batch; several make a table. Default: 1.",
    ),
]
PlotOpt = Annotated[
    Path | None, option("--plot", metavar="FILE.png", panel=OUTPUT, help="Draw MACs against size or batch.")
]


def command(
    model: ModelOptions,
    inputs: ShapeOptions,
    *,
    batch: BatchesOpt = None,
    device: DeviceOpt = None,
    fused: FusedOpt = False,
    plot: PlotOpt = None,
    report: ReportOptions,
) -> None:
    """MACs against input size and batch: one row for each of a list of sizes (--input 224,384) or batches (--batch
    1,8), and the exact polynomial through them, fitted on a few recordings and verified on others."""
    from modelprobe.model.inputs.series import parse_batches, parse_series

    series, batches = parse_series(inputs.input or ()), parse_batches(batch)
    if len(series.points) < 2 and len(batches) < 2:
        raise BadInput("scaling needs several sizes or batches", "list them: --input 224,256,288 or --batch 1,2,4")
    if plot is not None and plot.suffix.lower() != ".png":
        raise BadInput(f"--plot {plot} is not a PNG", "name it with .png")
    if plot is not None and not series.sizes and len(batches) < 2:
        raise BadInput("the inputs differ in more than one number: there is no axis to plot against", "drop --plot")
    report.check()

    from modelprobe.cost.scaling.points import measure_scaling

    found = measure_scaling(target_request(model, inputs, device=device), series, batches, fused=fused)
    report.emit((_plotted(found, plot, report.force) if plot is not None else found).report())


def _plotted(result: Scaling, path: Path, force: bool) -> Scaling:
    """Write the plot: MACs against the size, a line for each batch, or against the batch alone."""
    from modelprobe.vision.pictures.curves import Curve, curves

    by_size = len({point.size for point in result.points}) > 1
    batches = list(dict.fromkeys(point.batch for point in result.points)) if by_size else [None]
    lines = []
    for batch in batches:
        mine = [p for p in result.points if p.batch == batch or not by_size]
        at = [float((p.size if by_size else p.batch) or 0) for p in mine]
        macs = [(x, float(p.macs)) for x, p in zip(at, mine, strict=True)]
        if len(batches) > 1:
            lines.append(Curve(f"batch {batch}", macs))
            continue
        law = next((law for law in result.laws if law.variable == ("size" if by_size else "batch")), None)
        lines.append(Curve("MACs", macs, law.path(law.macs, max(at)) if law else ()))
        if any(p.attention_macs for p in mine):
            attention = [(x, float(p.attention_macs)) for x, p in zip(at, mine, strict=True)]
            lines.append(Curve("of which attention", attention, law.path(law.attention_macs, max(at)) if law else ()))
    x = "size of the input" if by_size else "batch"
    atomic_write(path, curves(lines, f"{result.model}: MACs of a forward pass", x, "MACs"), force=force)
    return replace(result, plot=str(path))
