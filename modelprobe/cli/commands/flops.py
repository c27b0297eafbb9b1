"""`modelprobe flops`: what a forward pass costs, where, and what was not counted."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli import options, output
from modelprobe.cli.commands import flops_compare, flops_scaling, flops_train
from modelprobe.cli.commands.flops_way import BY, CAUSAL, CONVENTIONS, Way, answer, check
from modelprobe.model.build import Question

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
    series, batches = flops_scaling.parse(input, batch)
    way = Way(
        by, depth, top, convention, causal, fused, compare, timeout, train, tuple(freeze or ()), optimizer, plot, force
    )
    check(way, series, batches)
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
    output.emit(answer(question, way, series, batches), format, out, force=force, strict=strict)
