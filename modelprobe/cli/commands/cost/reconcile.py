"""`modelprobe reconcile`: what other tools count, each asked in a child process, and why it differs."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.options import COUNTING, FusedOpt, InputOptions, ModelOptions, ReportOptions, option, target_request

TOOL_TIMEOUT = 120.0

EXAMPLES = (
    "modelprobe reconcile resnet18",
    "modelprobe reconcile samples/models.py:TinyAttention --timeout 60",
)

TimeoutOpt = Annotated[
    float, option("--timeout", metavar="SECONDS", min=0.1, panel=COUNTING, help="How long to wait for one tool.")
]


def command(
    model: ModelOptions,
    inputs: InputOptions,
    *,
    fused: FusedOpt = False,
    timeout: TimeoutOpt = TOOL_TIMEOUT,
    report: ReportOptions,
) -> None:
    """What other tools count for the same model, and why it differs, operator by operator: thop, torchinfo, torch's
    counter, and fvcore and ptflops where installed. Each is asked in a process of its own."""
    report.check()
    from modelprobe.cost.other_tools.reconcile import reconcile

    report.emit(reconcile(target_request(model, inputs), fused=fused, timeout=timeout).report())
