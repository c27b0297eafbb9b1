"""`modelprobe keys`: do the names and shapes in a weight file fit a model, and if not, why not?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from modelprobe.cli import options, output
from modelprobe.errors import CheckFailed
from modelprobe.model.weights import request as shared

AllOpt = Annotated[
    bool,
    typer.Option("--all", metavar=options.FLAG, help="List every tensor by itself.", rich_help_panel=options.OUTPUT),
]


def command(
    file: shared.FileArg,
    wanted: shared.ForOpt = None,
    settings: options.SetOpt = None,
    origin: shared.FromOpt = None,
    inputs: shared.InputOpt = None,
    branch: shared.BranchOpt = None,
    prefix: shared.PrefixOpt = "",
    drop: shared.DropOpt = None,
    drop_head: shared.DropHeadOpt = False,
    grid: shared.GridOpt = None,
    unproven: shared.UnprovenOpt = False,
    all_rows: AllOpt = False,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """What in a weight file fits a model and what does not, with reasons, and the command that repairs it.

    Exit code 1 when the file would not load as it is. Nothing in it is run.
    """
    output.check(format, out, force=force)
    asked = shared.RepairOptions(
        file, wanted, settings or (), origin, branch, prefix, drop or (), drop_head, grid, None, unproven, inputs or ()
    )
    fitted = shared.plan(asked)
    from modelprobe.environment import brief
    from modelprobe.model.weights.keys_result import compare_keys

    result = compare_keys(fitted, asked.again(), all_rows)
    output.emit(replace(result.report(), env=brief()), format, out, force=force, strict=strict)
    if result.fits is False:
        hint = result.command or "the report says why"
        raise CheckFailed(f"{file} does not fit {wanted} as it is", hint)
