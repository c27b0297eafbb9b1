"""`modelprobe flops`: what a forward pass costs, where, and what was not counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import (
    COUNTING,
    DepthOpt,
    FoldOpt,
    FusedOpt,
    IgnoreOpt,
    ModelOptions,
    ModeOpt,
    ReportOptions,
    RunOptions,
    SaveTraceOpt,
    StoreOptions,
    TopOpt,
    is_trace_file,
    one_of,
    option,
    target_request,
)
from modelprobe.cost.conventions import CONVENTIONS, OWN_CONVENTION, needs_function_calls
from modelprobe.cost.tables import ROW_TITLES
from modelprobe.cost.traces.stored import forward_run
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.cost.data_dependent import CostBounds
    from modelprobe.tracing.records import Trace

    Bounds = Callable[[Trace], tuple[CostBounds, ...]]

CAUSAL = ("dense", "exact")

EXAMPLES = (
    "modelprobe flops resnet50 --input 224 --depth 1",
    "modelprobe flops samples/models.py:TinyAttention --by operator",
    "modelprobe flops vit_b_16 --convention fvcore --depth 0",
)

ByOpt = Annotated[
    str,
    option(
        "--by",
        metavar="|".join(ROW_TITLES),
        callback=one_of("--by", tuple(ROW_TITLES)),
        panel=COUNTING,
        help="What the rows are; call lists every call in order.",
    ),
]
ConventionOpt = Annotated[
    str,
    option(
        "--convention",
        metavar="|".join((OWN_CONVENTION, *CONVENTIONS)),
        callback=one_of("--convention", (OWN_CONVENTION, *CONVENTIONS)),
        panel=COUNTING,
        help="Count as another tool does, to its own integer, without running it.",
    ),
]
CausalOpt = Annotated[
    str,
    option(
        "--causal",
        metavar="|".join(CAUSAL),
        callback=one_of("--causal", CAUSAL),
        panel=COUNTING,
        help="Causal attention as published figures count it, or only the scores that a kernel computes.",
    ),
]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    fused: FusedOpt = False,
    by: ByOpt = "module",
    convention: ConventionOpt = OWN_CONVENTION,
    causal: CausalOpt = CAUSAL[0],
    mode: ModeOpt = "eval",
    ignore: IgnoreOpt = None,
    fold: FoldOpt = None,
    depth: DepthOpt = None,
    top: TopOpt = None,
    save_trace: SaveTraceOpt = None,
    store: StoreOptions,
    report: ReportOptions,
) -> None:
    """MACs and FLOPs of a forward pass: total, by module, operator, kind or call, and what was not counted."""
    _refuse_contradictions(inputs, convention, causal)
    report.check()
    stored = None
    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options

        refuse_model_options(model, inputs, store, fused=fused, mode=mode != "eval", save_trace=save_trace is not None)
        trace, bounds = _kept(model.target, convention)
    else:
        run = forward_run(
            target_request(model, inputs), store.use, fused=fused, mode=mode,
            functions=needs_function_calls(convention), edited=bool(ignore) or causal == "exact",
        )  # fmt: skip
        trace, bounds, stored = run.trace, run.bounds, run.stored
    if save_trace is not None:
        from modelprobe.cost.traces.saved import save_run

        save_run(save_trace, report.force, forward=trace, bounds=bounds(trace))
        stored = None
    trace = _edited(trace, ignore, causal)
    if convention != OWN_CONVENTION:
        from modelprobe.cost.conventions.report import count_by_convention

        report.emit(count_by_convention(trace, convention, by=by, depth=report.depth(depth), top=top).report(), stored)
        return
    from modelprobe.cost.flops import flops_of

    result = flops_of(trace, by=by, depth=report.depth(depth), top=top, folded=report.folded(fold))
    report.emit(replace(result, ranges=bounds(trace)).report(), stored)


def _edited(trace: Trace, ignore: list[str] | None, causal: str) -> Trace:
    """The trace without the modules that are left out, and with causal attention as a kernel computes it."""
    if ignore:
        from modelprobe.cost.traces.edits import without_modules

        trace = without_modules(trace, ignore)
    if causal == "exact":
        from modelprobe.cost.traces.edits import exactly_causal

        trace = exactly_causal(trace)
    return trace


def _refuse_contradictions(inputs: RunOptions, convention: str, causal: str) -> None:
    """Raise BadInput for options that exclude each other, and for a list of sizes."""
    if causal == "exact" and convention != OWN_CONVENTION:
        raise BadInput(f"--causal exact is not how {convention} counts", "drop either --causal or --convention")
    if inputs.input:
        from modelprobe.model.inputs.series import parse_series

        if len(parse_series(inputs.input).points) > 1:
            raise BadInput("flops counts one size, not a list", "`modelprobe scaling` takes a list in --input")


def _kept(path: str, convention: str) -> tuple[Trace, Bounds]:
    """The run that a file holds, and what it says of bounds."""
    from modelprobe.cost.traces.saved import load_forward

    trace, bounds = load_forward(path)
    if needs_function_calls(convention) and not trace.functions:
        raise BadInput(
            f"{path} holds no calls of functions, which {convention} counts by",
            f"record it with --convention {convention} --save-trace FILE",
        )
    return trace, lambda _: bounds
