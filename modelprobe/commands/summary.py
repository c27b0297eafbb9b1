"""`modelprobe summary`: the layers of a model with shapes, parameters and costs."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe import options, output
from modelprobe.commands.subject import Question, build, record

ColumnsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME[,NAME]",
        help="What to show: class, input, output, params, macs, share, calls, flops, activations, bytes, arguments.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]
FoldOpt = Annotated[
    bool,
    typer.Option(
        "--fold/--no-fold", help="Show equal neighbouring blocks once, as xN.", rich_help_panel=options.OUTPUT
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
    depth: options.DepthOpt = None,
    columns: ColumnsOpt = None,
    fold: FoldOpt = True,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """The layer tree with classes, shapes, parameters and MACs; equal blocks folded, unused modules marked."""
    output.check(format, out, force=force)
    from modelprobe.analyzers.summary import known_columns, summarize

    chosen = known_columns(columns or ())
    question = Question(target, settings or (), input or (), inputs_from, batch, dtype, device)
    result = summarize(record(build(question)), depth=depth, columns=chosen, folded=fold)
    output.emit(result.report(), format, out, force=force, strict=strict)
