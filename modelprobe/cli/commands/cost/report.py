"""`modelprobe report`: everything about one model on one page."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from modelprobe.cli.image_options import ImageOpt, WeightsOpt
from modelprobe.cli.options import (
    INPUT,
    ModelOptions,
    ModeOpt,
    ReportOptions,
    RunOptions,
    is_trace_file,
    option,
    target_request,
)

EXAMPLES = (
    "modelprobe report resnet18 -o resnet18.html",
    "modelprobe report samples/models.py:DigitCNN --weights samples/digit_cnn.pth --image samples/digit_b.png "
    "-o digits.html",
    "modelprobe report samples/models.py:TinyCNN --sizes 64,96,128 -f markdown",
)

SizesOpt = Annotated[
    str | None,
    option("--sizes", metavar="N,N[,N...]", panel=INPUT, help="Count at these input sizes too, as `scaling` does."),
]
TimesOpt = Annotated[
    Path | None,
    option("--times", metavar="FILE.json", panel=INPUT, help="Times and roofline, from `profile --by layer -f json`."),
]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    mode: ModeOpt = "eval",
    sizes: SizesOpt = None,
    times: TimesOpt = None,
    image: ImageOpt = None,
    weights: WeightsOpt = "pretrained",
    report: ReportOptions,
) -> None:
    """Everything about one model: cost, graph, layers, memory, parameters and buffers; with --image class maps, or
    what layers put out. With -o report.html one page that needs nothing else."""
    from modelprobe.cli.output import choose, refuse_if_incomplete
    from modelprobe.graph.overview.gather import (
        overview_of_file,
        overview_of_target,
        with_images,
        with_scaling,
        with_times,
    )

    report.check()
    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options

        refuse_model_options(model, inputs, mode=mode != "eval", sizes=sizes is not None, image=bool(image))
        found = overview_of_file(model.target)
    else:
        request = target_request(model, inputs)
        found = overview_of_target(request, mode == "train")
        found = with_scaling(found, replace(request, inputs=()), sizes) if sizes is not None else found
    found = with_times(found, times) if times is not None else found
    drawn = choose(report.format, report.output).name == "html"
    with tempfile.TemporaryDirectory(prefix="modelprobe-") as place:
        if image:
            looks = replace(request, device=None, dtype=None, batch=None, weights=weights)
            found = with_images(found, looks, image, Path(place) / "maps" if drawn else None)
        if not drawn:
            report.emit(found.report())
            return
        from modelprobe.graph.overview.page import overview_page

        page = overview_page(found)
    _write_page(page, report)
    if report.strict:
        refuse_if_incomplete(found.report())


def _write_page(page: str, report: ReportOptions) -> None:
    if report.output is None:
        from modelprobe.console import write_text

        write_text(sys.stdout, page)
    else:
        from modelprobe.console import say
        from modelprobe.files.atomic import atomic_write

        atomic_write(report.output, page, force=report.force)
        say(f"wrote {report.output}", always=False)
