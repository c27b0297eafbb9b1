"""`modelprobe graph`: the picture of a network, as a page, a picture, or for other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
from modelprobe.errors import BadInput, ProbeError

if TYPE_CHECKING:
    from modelprobe.graph.graph import ModelGraph

ORIENTATIONS = ("down", "right")

EXAMPLES = (
    "modelprobe graph resnet18 -o resnet18.html",
    "modelprobe graph resnet18 --beside resnet34 -o two.html",
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
BesideOpt = Annotated[
    str | None,
    option("--beside", metavar="TARGET", panel=OUTPUT, help="A second model beside the first, in one page."),
]
OverlayOpt = Annotated[
    list[Path] | None,
    option(
        "--overlay",
        metavar="FILE.json",
        panel=OUTPUT,
        help="Color the page by times (`profile --by layer -f json`) or differences (`compare --by layer`, `diverge`, "
        "`diff`). Repeatable.",
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
    beside: BesideOpt = None,
    overlay: OverlayOpt = None,
    report: ReportOptions,
) -> None:
    """The network as a graph: modules as nested boxes, operators in them, equal blocks folded. -o names a page
    (.html), a picture (.svg, .png) or a file for other programs (.dot, .mmd, .json)."""
    drawn = _file_to_draw(report)
    if (beside is not None or overlay) and (drawn is None or drawn.suffix.lower() not in (".html", ".htm")):
        raise BadInput("--beside and --overlay are for a page", "add -o graph.html")
    graph, failure = _recorded_graph(model, inputs, mode, depth, fold)
    second = None
    if beside is not None:
        second, failed = _recorded_graph(replace(model, target=beside), inputs, mode, depth, fold)
        failure = failure or failed
    if drawn is None:
        report.emit(graph.report())
    else:
        from modelprobe.console import say
        from modelprobe.files.atomic import atomic_write
        from modelprobe.graph.files import content_of
        from modelprobe.graph.overlays import in_common, overlay_from

        overlays = [overlay_from(graph, path) for path in overlay or ()]
        suffix, across = drawn.suffix.lower(), orientation == "right"
        atomic_write(drawn, content_of(graph, suffix, depth, across, overlays, second), force=report.force)
        for note in graph.notes:
            say(f"note: {note.text}", always=False)
        if second is not None and not in_common(graph, second):
            say("note: the two models have no module at the same path: nothing is chosen together", always=False)
        say(f"wrote {drawn}", always=False)
    if failure is not None:
        raise failure


def _file_to_draw(report: ReportOptions) -> Path | None:
    """The page or picture to write; None where a report is asked for. Raises BadInput for one that cannot be."""
    drawn = report.output if report.format is None else None
    if drawn is None or drawn.suffix.lower() == ".json":
        report.check()
        return None
    from modelprobe.files.atomic import check_target
    from modelprobe.graph.files import check_suffix

    check_suffix(drawn)
    check_target(drawn, force=report.force)
    return drawn


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
