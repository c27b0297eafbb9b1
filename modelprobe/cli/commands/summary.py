"""`modelprobe summary`: the layers of a model with shapes, parameters and costs; or what a weight file holds."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.checkpoint.names_file import names_weights
from modelprobe.cli import options, output
from modelprobe.cli.commands.weights import View, summarize_file
from modelprobe.model.build import Question, build, record

WEIGHTS = "Weight file"

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
AllOpt = Annotated[
    bool,
    typer.Option("--all", help="Of a weight file, show every tensor and every other value.", rich_help_panel=WEIGHTS),
]
BranchOpt = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="Which part of a weight file to show, by its dotted name: state_dict_ema.",
        show_default=False,
        rich_help_panel=WEIGHTS,
    ),
]
StatsOpt = Annotated[
    bool,
    typer.Option(
        "--stats",
        help="Of a weight file, read the values: mean, std, norm, extremes, zeros, NaN and a histogram per tensor.",
        rich_help_panel=WEIGHTS,
    ),
]
VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Of a weight file, compare checksums, the hash in its name and a .sha256 beside it; exit code 1 if wrong.",
        rich_help_panel=WEIGHTS,
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
    depth: options.DepthOpt = None,
    columns: ColumnsOpt = None,
    fold: FoldOpt = True,
    all_tensors: AllOpt = False,
    branch: BranchOpt = None,
    stats: StatsOpt = False,
    verify: VerifyOpt = False,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """The layers of a model with shapes, parameters and MACs; or, of a weight file, all that it holds, safely."""
    output.check(format, out, force=force)
    if names_weights(target) and arch is None and not unsafe_load:
        view = View(depth, all_tensors, branch, stats, verify)
        summarize_file(target, view, format, out, force, strict)
        return
    from modelprobe.cost.summary import known_columns, summarize

    chosen = known_columns(columns or ())
    question = Question(
        target, settings or (), input or (), inputs_from, batch, dtype, device, arch=arch, unsafe_load=unsafe_load
    )
    result = summarize(record(build(question)), depth=depth, columns=chosen, folded=fold)
    output.emit(result.report(), format, out, force=force, strict=strict)
