"""`modelprobe flops`: what a forward pass costs, where, and what was not counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from modelprobe import options, output
from modelprobe.commands import flops_compare, flops_scaling, flops_train
from modelprobe.commands.subject import Question, build, fuse, record
from modelprobe.errors import BadInput
from modelprobe.report import Report

BY = ("module", "operator", "kind", "call")
CAUSAL = ("dense", "exact")
CONVENTIONS = ("modelprobe", "torchvision", "torch", "fvcore", "thop", "torchinfo", "ptflops", "ptflops-aten")

ByOpt = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="|".join(BY),
        help="What the rows are; call lists every call in order.",
        rich_help_panel="Output",
    ),
]

ConventionOpt = Annotated[
    str,
    typer.Option(
        "--convention",
        metavar="|".join(CONVENTIONS),
        help="Count as another tool does, to its own integer, without running it.",
        rich_help_panel="Output",
    ),
]

FusedOpt = Annotated[
    bool,
    typer.Option(
        "--fused",
        metavar=options.FLAG,
        help="Count the model as it is deployed: branches re-parameterised, batch norms folded, where it knows how.",
        rich_help_panel=options.MODEL,
    ),
]

CausalOpt = Annotated[
    str,
    typer.Option(
        "--causal",
        metavar="|".join(CAUSAL),
        help="Causal attention as published figures count it, or only the scores that a kernel computes.",
        rich_help_panel="Output",
    ),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    input: options.InputOpt = None,
    batch: flops_scaling.BatchesOpt = None,
    inputs_from: options.InputsFromOpt = None,
    dtype: options.DtypeOpt = None,
    device: options.DeviceOpt = None,
    fused: FusedOpt = False,
    convention: ConventionOpt = "modelprobe",
    causal: CausalOpt = "dense",
    compare: flops_compare.CompareOpt = False,
    timeout: flops_compare.TimeoutOpt = None,
    plot: flops_scaling.PlotOpt = None,
    train: flops_train.TrainOpt = False,
    freeze: flops_train.FreezeOpt = None,
    optimizer: flops_train.OptimizerOpt = None,
    by: ByOpt = "module",
    depth: options.DepthOpt = None,
    top: options.TopOpt = None,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """MACs and FLOPs of a forward pass: total, by module, operator or kind, and what was not counted."""
    if by not in BY:
        raise BadInput(f"--by {by!r} is not known", f"choose one of {', '.join(BY)}")
    if convention not in CONVENTIONS:
        raise BadInput(f"--convention {convention!r} is not known", f"choose one of {', '.join(CONVENTIONS)}")
    check_causal(causal, convention)
    alone = {"--convention": convention != "modelprobe", "--causal": causal != "dense", "--by": by != "module"}
    flops_compare.check(compare, timeout, {**alone, "--depth": depth is not None, "--top": top is not None})
    series, batches = flops_scaling.parse(input, batch)
    flops_scaling.check(series, batches, plot, {**alone, "--compare": compare, "--depth": depth is not None})
    several = len(series.points) > 1 or len(batches) > 1
    others = {"--compare": compare, "--fused": fused, "list in --input or --batch": several, "--by call": by == "call"}
    flops_train.check(train, freeze, optimizer, {**alone, "--by": False, **others})
    output.check(format, out, force=force)
    question = Question(
        target,
        settings or (),
        series.points[0],
        inputs_from,
        batches[0] if batches else None,
        dtype,
        device,
        arch=arch,
        unsafe_load=unsafe_load,
    )
    if train:
        report = flops_train.cost(question, freeze, optimizer, by, depth, top).report()
    elif several:
        report = flops_scaling.report(question, series, batches, fused, plot, force)
    elif compare:
        report = flops_compare.compare(question, fused=fused, timeout=timeout).report()
    else:
        report = _one(question, fused, convention, causal, by, depth, top)
    output.emit(report, format, out, force=force, strict=strict)


def _one(
    question: Question, fused: bool, convention: str, causal: str, by: str, depth: int | None, top: int | None
) -> Report:
    from modelprobe.analyzers.conventions import cost
    from modelprobe.analyzers.flops import FlopsResult
    from modelprobe.analyzers.ranges import ranges
    from modelprobe.tracing.causal import exactly_causal

    subject = fuse(build(question)) if fused else build(question)
    trace = record(subject, functions=convention == "ptflops")
    if causal == "exact":
        trace = exactly_causal(trace)
    result = cost(trace, convention, by=by, depth=depth, top=top)
    return (
        replace(result, ranges=ranges(subject.model, trace)) if isinstance(result, FlopsResult) else result
    ).report()


def check_causal(causal: str, convention: str) -> None:
    """Raises BadInput for an unknown way, and for another tool's convention: each counts attention by its own rule."""
    if causal not in CAUSAL:
        raise BadInput(f"--causal {causal!r} is not known", f"choose one of {', '.join(CAUSAL)}")
    if causal == "exact" and convention != "modelprobe":
        raise BadInput(f"--causal exact is not how {convention} counts", "leave out one of --causal and --convention")
