"""`modelprobe summary`: the layers of a model with shapes, parameters and costs; or what a weight file holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from modelprobe import console
from modelprobe.checkpoint.file_names import names_weights
from modelprobe.cli.file_options import WEIGHTS, BranchOpt
from modelprobe.cli.options import (
    OUTPUT,
    DepthOpt,
    FoldOpt,
    IgnoreOpt,
    ModelOptions,
    ModeOpt,
    ReportOptions,
    RunOptions,
    SaveTraceOpt,
    StoreOptions,
    is_trace_file,
    option,
    target_request,
)
from modelprobe.errors import CheckFailed

EXAMPLES = (
    "modelprobe summary swin_t --depth 3",
    "modelprobe summary samples/tiny_ddp.pth",
    "modelprobe summary samples/digit_cnn.pth --stats",
)

ColumnsOpt = Annotated[
    list[str] | None,
    option(
        "--columns",
        metavar="NAME[,NAME]",
        panel=OUTPUT,
        help="What to show: class, input, output, params, macs, share, calls, flops, activations, bytes, arguments.",
    ),
]
AllOpt = Annotated[
    bool, option("--all", panel=WEIGHTS, help="Of a weight file, show every tensor and every other value.")
]
StatsOpt = Annotated[
    bool,
    option(
        "--stats",
        panel=WEIGHTS,
        help="Of a weight file, read the values: mean, std, norm, extremes, zeros, NaN and a histogram per tensor.",
    ),
]
VerifyOpt = Annotated[
    bool,
    option(
        "--verify",
        panel=WEIGHTS,
        help="Of a weight file, compare checksums, the hash in its name and a .sha256 beside it; exit code 1 if wrong.",
    ),
]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    mode: ModeOpt = "eval",
    ignore: IgnoreOpt = None,
    depth: DepthOpt = None,
    columns: ColumnsOpt = None,
    fold: FoldOpt = None,
    all_tensors: AllOpt = False,
    branch: BranchOpt = None,
    stats: StatsOpt = False,
    verify: VerifyOpt = False,
    save_trace: SaveTraceOpt = None,
    store: StoreOptions,
    report: ReportOptions,
) -> None:
    """Layers of a model with shapes, parameters and MACs. Of a weight file, everything in it; no code in it is run."""
    report.check()
    trace_file = is_trace_file(model.target)
    if not trace_file and names_weights(model.target) and model.arch is None and not model.unsafe_load:
        summarize_file(model.target, FileSummaryOptions(depth, all_tensors, branch, stats, verify), report)
        return
    from modelprobe.cost.summary import known_columns, summary_of

    chosen, stored = known_columns(columns or ()), None
    if trace_file:
        from modelprobe.cli.trace_options import refuse_model_options
        from modelprobe.cost.traces.saved import load_forward

        refuse_model_options(model, inputs, store, mode=mode != "eval", save_trace=save_trace is not None)
        trace, _ = load_forward(model.target)
    else:
        from modelprobe.cost.traces.stored import forward_run

        run = forward_run(target_request(model, inputs), store.use, mode=mode)
        trace, stored = run.trace, run.stored
    if save_trace is not None:
        from modelprobe.cost.traces.saved import save_run

        save_run(save_trace, report.force, forward=trace)
        stored = None
    if ignore:
        from modelprobe.cost.traces.edits import without_modules

        trace = without_modules(trace, ignore)
    result = summary_of(trace, depth=report.depth(depth), columns=chosen, folded=report.folded(fold))
    report.emit(result.report(), stored)


@dataclass(frozen=True, slots=True)
class FileSummaryOptions:
    """What to show of a weight file."""

    depth: int | None = None
    all_tensors: bool = False
    branch: str | None = None
    stats: bool = False
    verify: bool = False


def summarize_file(path: str, options: FileSummaryOptions, report: ReportOptions) -> None:
    """Read the headers of a file without torch, and report. Raises CheckFailed (exit code 1) for a damaged file."""
    from modelprobe.checkpoint.answers.summary import summarize_weights
    from modelprobe.checkpoint.open import gc_paused, open_checkpoint
    from modelprobe.environment import brief

    spelled = path if "://" in path else str(Path(path).expanduser())
    with gc_paused(), console.working(f"reading {path}"):
        found = open_checkpoint(spelled)
        result = summarize_weights(
            found, options.depth, options.all_tensors, options.branch, options.stats, options.verify
        )
    report.emit(replace(result.report(), env=brief()))
    if result.damaged:
        raise CheckFailed(f"{path} is damaged or forged", "the report says what is wrong; download the file again")
    if result.verification is not None and result.verification.failed:
        raise CheckFailed(f"{path} does not match its checksums", "the report says where; download the file again")
