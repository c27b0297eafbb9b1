"""`modelprobe flops`: what a forward pass costs, where, and what was not counted."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe import options, output
from modelprobe.commands.subject import Question, build, fuse, record
from modelprobe.errors import BadInput

BY = ("module", "operator", "kind", "call")
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


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    input: options.InputOpt = None,
    batch: options.BatchOpt = None,
    inputs_from: options.InputsFromOpt = None,
    dtype: options.DtypeOpt = None,
    device: options.DeviceOpt = None,
    fused: FusedOpt = False,
    convention: ConventionOpt = "modelprobe",
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
    output.check(format, out, force=force)
    from modelprobe.analyzers.conventions import cost

    question = Question(
        target, settings or (), input or (), inputs_from, batch, dtype, device, arch=arch, unsafe_load=unsafe_load
    )
    subject = fuse(build(question)) if fused else build(question)
    result = cost(record(subject, functions=convention == "ptflops"), convention, by=by, depth=depth, top=top)
    output.emit(result.report(), format, out, force=force, strict=strict)
