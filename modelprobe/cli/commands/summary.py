"""`modelprobe summary`: the layers of a model with shapes, parameters and costs; or what a weight file holds."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.cli.commands.weights import FileSummaryOptions, summarize_file
from modelprobe.cli.options import OUTPUT, DepthOpt, InputOptions, ModelOptions, ReportOptions, target_request

EXAMPLES = (
    "modelprobe summary swin_t --depth 3",
    "modelprobe summary samples/tiny_ddp.pth",
    "modelprobe summary samples/digit_cnn.pth --stats",
)

WEIGHTS = "Weight file"

ColumnsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME[,NAME]",
        help="What to show: class, input, output, params, macs, share, calls, flops, activations, bytes, arguments.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
FoldOpt = Annotated[
    bool,
    typer.Option("--fold/--no-fold", help="Show equal neighbouring blocks once, as xN.", rich_help_panel=OUTPUT),
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
    model: ModelOptions,
    inputs: InputOptions,
    *,
    depth: DepthOpt = None,
    columns: ColumnsOpt = None,
    fold: FoldOpt = True,
    all_tensors: AllOpt = False,
    branch: BranchOpt = None,
    stats: StatsOpt = False,
    verify: VerifyOpt = False,
    report: ReportOptions,
) -> None:
    """Layers of a model with shapes, parameters and MACs. Of a weight file, everything in it; no code in it is run."""
    report.check()
    if names_weights(model.target) and model.arch is None and not model.unsafe_load:
        view = FileSummaryOptions(depth, all_tensors, branch, stats, verify)
        summarize_file(model.target, view, report.format, report.output, report.force, report.strict)
        return
    from modelprobe.cost.summary import known_columns, summary_of
    from modelprobe.model.build import load_model, record

    chosen = known_columns(columns or ())
    trace = record(load_model(target_request(model, inputs)))
    report.emit(summary_of(trace, depth=depth, columns=chosen, folded=fold).report())
