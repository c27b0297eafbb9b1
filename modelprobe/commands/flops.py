"""`modelprobe flops`: what a forward pass costs, where, and what was not counted."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe import options, output
from modelprobe.commands.subject import Question, build, record
from modelprobe.errors import BadInput

BY = ("module", "operator", "kind", "call")

ByOpt = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="|".join(BY),
        help="What the rows are; call lists every call in order.",
        rich_help_panel="Output",
    ),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    input: options.InputOpt = None,
    batch: options.BatchOpt = None,
    inputs_from: options.InputsFromOpt = None,
    dtype: options.DtypeOpt = None,
    device: options.DeviceOpt = None,
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
    output.check(format, out, force=force)
    from modelprobe.analyzers.flops import count_flops

    question = Question(target, settings or (), input or (), inputs_from, batch, dtype, device)
    result = count_flops(record(build(question)), by=by, depth=depth, top=top)  # type: ignore[arg-type]
    output.emit(result.report(), format, out, force=force, strict=strict)
