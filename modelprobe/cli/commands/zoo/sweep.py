"""`modelprobe sweep`: one question of many models, by worker processes or a cluster, resumable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli.options import OUTPUT, TARGET, BatchOpt, InputOpt, ReportOptions, one_of, option
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write, check_target

if TYPE_CHECKING:
    from modelprobe.zoo.sweep import SweepResult

RUN = "Run"
QUESTIONS = ("flops", "params", "memory", "profile")

EXAMPLES = (
    "modelprobe sweep 'squeezenet*' --rows squeezenets.jsonl -f csv",
    "modelprobe sweep 'vit_tiny*' --what params --workers 2",
    "modelprobe sweep 'efficientnet_b*' --shard 1/4 --rows shard1.jsonl",
)

SweepTargetsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="PATTERN|FILE...",
        help="Wildcards over both zoos ('*' is all of them), targets, or text files with a target on each line.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
WhatOpt = Annotated[
    str,
    option(
        "--what", metavar="|".join(QUESTIONS), callback=one_of("--what", QUESTIONS), panel=RUN, help="What is asked."
    ),
]
RowsOpt = Annotated[
    Path | None,
    option(
        "--rows",
        metavar="FILE.jsonl",
        panel=RUN,
        help="Keep the rows in this file as they come. The same command goes on where it stopped.",
    ),
]
SweepWorkersOpt = Annotated[
    int | None,
    option("--workers", metavar="N", min=1, panel=RUN, help="Processes. Default: one per core; profile: one."),
]
TimeLimitOpt = Annotated[
    float, option("--timeout", metavar="SECONDS", min=0.1, panel=RUN, help="Of one model; then its row has failed.")
]
MemoryLimitOpt = Annotated[
    str, option("--memory-limit", metavar="SIZE", panel=RUN, help="Of one process (Linux); then its row has failed.")
]
ShardOpt = Annotated[str, option("--shard", metavar="I/N", panel=RUN, help="Only every N-th model, from the I-th.")]
RetryOpt = Annotated[bool, option("--retry-failed", panel=RUN, help="Ask those of --rows again that failed.")]
ExecutorOpt = Annotated[
    str,
    option("--executor", metavar="URL", panel=RUN, help="A cluster: dask://HOST:PORT, ray://HOST:PORT, ray://auto."),
]
TimmCsvOpt = Annotated[
    Path | None,
    option("--timm-csv", metavar="FILE.csv", panel=OUTPUT, help="Also write a table under timm's column names."),
]
SweepPlotOpt = Annotated[
    Path | None, option("--plot", metavar="FILE.png", panel=OUTPUT, help="Draw MACs against parameters.")
]


def command(
    targets: SweepTargetsArg,
    *,
    what: WhatOpt = "flops",
    inputs: InputOpt = None,
    batch: BatchOpt = None,
    rows: RowsOpt = None,
    workers: SweepWorkersOpt = None,
    timeout: TimeLimitOpt = 600.0,
    memory_limit: MemoryLimitOpt = "16GiB",
    shard: ShardOpt = "",
    retry_failed: RetryOpt = False,
    executor: ExecutorOpt = "",
    timm_csv: TimmCsvOpt = None,
    plot: SweepPlotOpt = None,
    report: ReportOptions,
) -> None:
    """Costs, memory or time of many models, by a process pool: a crash, a hang or too much memory costs one row.

    With --rows, every row is on the disk before the next; after Ctrl-C or a power cut the same command goes on.
    A failed row costs no other (exit code 0, under --strict 3); when all have failed the exit code is 2.
    """
    report.check()
    for path, suffix in ((timm_csv, ".csv"), (plot, ".png")):
        if path is not None:
            if path.suffix.lower() != suffix:
                raise BadInput(f"{path} should end in {suffix}", f"name it with {suffix}")
            check_target(path, force=report.force)
    from modelprobe.environment import brief, usable_cores
    from modelprobe.model.inputs.series import parse_batches
    from modelprobe.report.amounts import parse_amount
    from modelprobe.zoo.sweep import SweepOptions, run_sweep, sweep_targets
    from modelprobe.zoo.sweep import timm_csv as timm_table
    from modelprobe.zoo.workers import JobLimits

    batches = parse_batches(batch)
    if len(batches) > 1:
        raise BadInput(f"--batch {batch} lists several", "a sweep takes one")
    limits = JobLimits(timeout, parse_amount(memory_limit, "--memory-limit", of_bytes=True))
    at_once = workers or (1 if what == "profile" else usable_cores())
    options = SweepOptions(
        what, tuple(inputs or ()), batches[0] if batches else None, shard, rows, at_once, limits, executor,
        retry_failed,
    )  # fmt: skip
    result = run_sweep(sweep_targets(targets, shard), options, brief())
    if timm_csv is not None:
        atomic_write(timm_csv, timm_table(result), force=report.force)
    report.emit((_sweep_plotted(result, plot, report.force) if plot is not None else result).report())
    _refuse_failures_alone(result)


def _refuse_failures_alone(result: SweepResult) -> None:
    """Raise BadInput when no model was answered."""
    if result.failed == len(result.rows):
        first = result.rows[0]
        text = f"none of {len(result.rows)} models could be answered; the first: {first.problem}"
        raise BadInput(text, f"modelprobe {result.what} {first.target} says more of it")


def _sweep_plotted(result: SweepResult, path: Path, force: bool) -> SweepResult:
    """Write the plot."""
    from modelprobe.vision.pictures.curves import Curve, scatter_plot

    points = [(float(row.parameters), row.macs / 1e9) for row in result.rows if row.parameters and row.macs]
    if not points:
        raise BadInput("no row has MACs to plot", "drop --plot, or sweep with --what flops")
    picture = scatter_plot(points, Curve("", ()), (), f"{len(points)} models", "parameters", "GMACs")
    atomic_write(path, picture, force=force)
    return replace(result, plot=str(path))
