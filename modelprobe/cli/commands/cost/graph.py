"""`modelprobe graph`: the picture of a network, as a page, a picture, or for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import (
    OUTPUT,
    ModelOptions,
    ModeOpt,
    ReportOptions,
    RunOptions,
    is_trace_file,
    one_of,
    option,
    target_request,
)
from modelprobe.errors import ProbeError

if TYPE_CHECKING:
    from modelprobe.graph.graph import ModelGraph

ORIENTATIONS = ("down", "right")

EXAMPLES = (
    "modelprobe graph resnet18 -o resnet18.html",
    "modelprobe graph vit_b_16 -o vit.svg --depth 3",
    "modelprobe graph samples/models.py:TinyCNN -o tiny.mmd --orientation right",
)

GraphDepthOpt = Annotated[
    int | None,
    option("--depth", min=0, panel=OUTPUT, help="Levels of modules to open, and nothing below. Default: all."),
]
OrientationOpt = Annotated[
    str,
    option(
        "--orientation",
        metavar="|".join(ORIENTATIONS),
        callback=one_of("--orientation", ORIENTATIONS),
        panel=OUTPUT,
        help="Where values flow to.",
    ),
]
FoldBlocksOpt = Annotated[bool, option("--fold/--no-fold", panel=OUTPUT, help="Draw equal blocks once, as xN.")]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    mode: ModeOpt = "eval",
    depth: GraphDepthOpt = None,
    orientation: OrientationOpt = ORIENTATIONS[0],
    fold: FoldBlocksOpt = True,
    report: ReportOptions,
) -> None:
    """The network as a graph: modules as nested boxes, operators in them, equal blocks folded. -o names a page
    (.html), a picture (.svg, .png) or a file for other programs (.dot, .mmd, .json)."""
    from modelprobe.graph.files import check_suffix, content_of

    drawn = report.output if report.format is None else None
    if drawn is not None and drawn.suffix.lower() != ".json":
        from modelprobe.files.atomic import check_target

        check_suffix(drawn)
        check_target(drawn, force=report.force)
    else:
        report.check()
        drawn = None
    graph, failure = _recorded_graph(model, inputs, mode, depth, fold)
    if drawn is None:
        report.emit(graph.report())
    else:
        from modelprobe.console import say
        from modelprobe.files.atomic import atomic_write

        atomic_write(drawn, content_of(graph, drawn.suffix.lower(), depth, orientation == "right"), force=report.force)
        for note in graph.notes:
            say(f"note: {note.text}", always=False)
        say(f"wrote {drawn}", always=False)
    if failure is not None:
        raise failure


def _recorded_graph(
    model: ModelOptions, inputs: RunOptions, mode: str, depth: int | None, fold: bool
) -> tuple[ModelGraph, ProbeError | None]:
    """The graph, and what the model raised."""
    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options
        from modelprobe.cost.traces.saved import load_forward
        from modelprobe.graph.build import graph_of

        refuse_model_options(model, inputs, mode=mode != "eval")
        return graph_of(load_forward(model.target)[0], depth=depth, fold=fold), None
    from modelprobe.graph.of_target import FailedRun, graph_of_target

    try:
        return graph_of_target(target_request(model, inputs), mode == "train", depth, fold), None
    except FailedRun as raised:
        return raised.graph, raised
