"""`modelprobe repair`: a weight file with the names and shapes that a model expects, written anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelprobe import console
from modelprobe.cli import options, output
from modelprobe.cli.commands.convert import ForceOpt, ReportOpt, WeightsFormatOpt
from modelprobe.errors import CheckFailed
from modelprobe.model.weights import request as shared

OutOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The new weight file: .safetensors, or .pt, .pth, .bin, .ckpt. Left out: the plan alone.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]
InfiniteOpt = Annotated[
    bool,
    typer.Option(
        "--allow-inf",
        metavar=options.FLAG,
        help="Write the file also when --dtype makes values infinite.",
        rich_help_panel=shared.PLAN,
    ),
]
AllOpt = Annotated[
    bool,
    typer.Option("--all", metavar=options.FLAG, help="List every tensor.", rich_help_panel=options.OUTPUT),
]


def command(
    file: shared.FileArg,
    out: OutOpt = None,
    wanted: shared.ForOpt = None,
    settings: options.SetOpt = None,
    origin: shared.FromOpt = None,
    inputs: shared.InputOpt = None,
    branch: shared.BranchOpt = None,
    prefix: shared.PrefixOpt = "",
    drop: shared.DropOpt = None,
    drop_head: shared.DropHeadOpt = False,
    grid: shared.GridOpt = None,
    dtype: shared.CastOpt = None,
    allow_infinite: InfiniteOpt = False,
    unproven: shared.UnprovenOpt = False,
    all_rows: AllOpt = False,
    format: WeightsFormatOpt = None,
    force: ForceOpt = False,
    report: ReportOpt = None,
) -> None:
    """Rename and convert the tensors of a file until they fit; the plan alone, or with -o a new file.

    A plan that could be wrong is refused. The input is never written to.
    """
    asked = shared.RepairOptions(
        file, wanted, settings or (), origin, branch, prefix, drop or (), drop_head, grid, dtype, unproven, inputs or ()
    )
    shared.check_output(asked, out, format, force)
    fitted = shared.plan(asked)
    from modelprobe.environment import brief
    from modelprobe.model.weights.repair_result import repair

    with console.stdout_kept(), console.working(f"repairing {file}"):
        keep = branch is None and not prefix
        result = repair(
            fitted, out, format, keep_others=keep, allow_infinite=allow_infinite, all_rows=all_rows, force=force
        )
    output.emit(replace(result.report(), env=brief()), report)
    if result.refusals:
        raise CheckFailed(f"{file} cannot be repaired: {result.refusals[0][0]}", result.refusals[0][1])
