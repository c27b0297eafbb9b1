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

    result = compare_keys(plan_repair(request), request.arguments(), all_rows)
    report.emit(replace(result.report(), env=brief()))
    if result.fits is False:
        raise CheckFailed(f"{plan.file} does not match {plan.arch}", result.command or "the report says why")
