"""`modelprobe keys`: which names and shapes in a weight file match a model, and why the others do not."""

from __future__ import annotations

from dataclasses import replace

from modelprobe.cli.file_options import AllTensorsOpt, RepairPlanOptions
from modelprobe.cli.options import ReportOptions
from modelprobe.errors import CheckFailed

EXAMPLES = (
    "modelprobe keys samples/tiny_ddp.pth --arch samples/models.py:TinyCNN",
    "modelprobe keys samples/digit_cnn.pth --arch samples/models.py:DigitViT --all",
)


def command(plan: RepairPlanOptions, *, all_rows: AllTensorsOpt = False, report: ReportOptions) -> None:
    """Which tensors of a weight file match a model, why the others do not, and the command that repairs the file.

    Exit code 1 when the file would not load as it is. No code in it is run.
    """
    report.check()
    request = plan.request()
    from modelprobe.environment import brief
    from modelprobe.model.weights.keys_result import compare_keys
    from modelprobe.model.weights.request import plan_repair
    from modelprobe.model.weights.ways_out import ways_out

    fitted = plan_repair(request)
    result = compare_keys(fitted, request.arguments(), all_rows, ways_out(fitted, request))
    report.emit(replace(result.report(), env=brief()))
    if result.fits is False:
        command = result.command or next((way.command for way in result.ways), "")
        helps = next((problem.hint for problem in result.problems), "")
        raise CheckFailed(f"{plan.file} does not match {plan.arch}", command or helps or "the report says why")
