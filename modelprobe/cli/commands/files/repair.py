"""`modelprobe repair`: a weight file rewritten with the names and shapes that a model expects."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from modelprobe import console
from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.cli import output
from modelprobe.cli.file_options import (
    WEIGHTS,
    AllTensorsOpt,
    OverwriteOpt,
    RepairPlanOptions,
    StdoutFormatOpt,
    ToOpt,
    WeightsOutputOpt,
)
from modelprobe.cli.options import RARE, option
from modelprobe.errors import CheckFailed

EXAMPLES = (
    "modelprobe repair samples/tiny_ddp.pth --arch samples/models.py:TinyCNN",
    "modelprobe repair samples/tiny_ddp.pth --arch samples/models.py:TinyCNN -o tiny.safetensors",
    "modelprobe repair samples/digit_cnn.pth --dtype bfloat16 -o half.pth",
)

CastOpt = Annotated[
    str | None,
    option(
        "--dtype",
        metavar="|".join(FLOATING_DTYPES),
        panel=WEIGHTS,
        help="The floating-point type of the result. Default: as in the file.",
    ),
]
InfiniteOpt = Annotated[
    bool, option("--allow-inf", panel=RARE, help="Write the file also when --dtype makes values infinite.")
]


def command(
    plan: RepairPlanOptions,
    *,
    dtype: CastOpt = None,
    allow_infinite: InfiniteOpt = False,
    out: WeightsOutputOpt = None,
    to: ToOpt = None,
    force: OverwriteOpt = False,
    all_rows: AllTensorsOpt = False,
    format: StdoutFormatOpt = None,
) -> None:
    """Rename and convert the tensors of a file until they match a model: the plan alone, or with -o a new file.

    A plan that could be wrong is refused. The input is never written to.
    """
    request = plan.request(dtype)
    request.check_output(out, to, force=force)
    from modelprobe.environment import brief
    from modelprobe.model.weights.repair_result import repair
    from modelprobe.model.weights.request import plan_repair
    from modelprobe.model.weights.ways_out import ways_out

    fitted = plan_repair(request)
    given = ["-o", str(out), *(["--to", to] if to else []), *(["--force"] if force else [])] if out else []
    ways = ways_out(fitted, request, [*given, *(["--allow-inf"] if allow_infinite else [])])
    with console.stdout_kept(), console.working(f"repairing {plan.file}"):
        result = repair(
            fitted,
            out,
            to,
            keep_others=plan.branch is None and not plan.prefix,
            allow_infinite=allow_infinite,
            all_rows=all_rows,
            force=force,
            ways=ways,
        )
    output.emit(replace(result.report(), env=brief()), format)
    if result.refusals:
        hint = ways[0].command if ways else result.refusals[0][1]
        raise CheckFailed(f"{plan.file} cannot be repaired: {result.refusals[0][0]}", hint)
