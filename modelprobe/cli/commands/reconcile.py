"""`modelprobe reconcile`: what other tools count, each asked in a child process, and why it differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli.options import COUNTING, FusedOpt, InputOptions, ModelOptions, ReportOptions, target_request
from modelprobe.console import working
from modelprobe.cost.other_tools import OTHER_TOOLS
from modelprobe.cost.other_tools.child import ENTRY, order_content
from modelprobe.cost.other_tools.process import Order, ask_all, cores, free_memory
from modelprobe.cost.other_tools.tool import Tool, ToolResult
from modelprobe.model.build import Question, build, fuse, record
from modelprobe.report.units import size

if TYPE_CHECKING:
    from modelprobe.cost.other_tools.comparison import ToolComparison
    from modelprobe.tracing.records import Trace

TOOL_TIMEOUT = 120
PROCESS = 600 * 2**20
"""What a child takes beside the model, in bytes: torch and torchvision imported."""

EXAMPLES = (
    "modelprobe reconcile resnet18",
    "modelprobe reconcile samples/models.py:TinyAttention --timeout 60",
)

TimeoutOpt = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.1, help="How long to wait for one tool.", rich_help_panel=COUNTING
    ),
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
    report.emit(compare(target_request(model, inputs), fused=fused, timeout=timeout).report())


def compare(question: Question, *, fused: bool = False, timeout: float = TOOL_TIMEOUT) -> ToolComparison:
    """What every tool in `OTHER_TOOLS` says of the target, beside the ledger's own figure."""
    from modelprobe.cost.other_tools.comparison import compare_with_tools
    from modelprobe.model.zoo.published import published

    subject = fuse(build(question)) if fused else build(question)
    trace = record(subject, functions=True)
    tools = list(OTHER_TOOLS.values())
    answers = _answers(question, tools, trace, fused, timeout)
    figures = published(subject.target.source, subject.target.given, [ref.shape for ref in trace.inputs])
    return compare_with_tools(trace, tools, answers, figures if not fused else ())


def _answers(
    question: Question, tools: Sequence[Tool], trace: Trace, fused: bool, timeout: float
) -> dict[str, ToolResult]:
    room, needed = free_memory(), _bytes_needed(trace)
    refused: dict[str, ToolResult] = {}
    orders = []
    for tool in tools:
        empty = tool.on_meta and question.device in (None, "meta")
        needs = PROCESS + (0 if empty else needed)
        if not tool.installed:
            refused[tool.name] = ToolResult(None, f"not installed: {tool.remedy}")
        elif room is not None and needs > room:
            text = f"not run: it needs {size(needs)} of memory for weights and activations, {size(room)} is free"
            refused[tool.name] = ToolResult(None, text)
        else:
            content = order_content(question, tool.ask, fused=fused, on_meta=tool.on_meta)
            orders.append(Order(tool.name, ENTRY, content, needs))
    workers = max(1, min(len(orders), cores()))
    with working("asking other tools") as show:
        told = ask_all(
            orders,
            timeout,
            workers=workers,
            memory=room,
            told=lambda running, done: show(
                f"{len(done)} of {len(orders)} tools have answered; asking {', '.join(running)}"
            ),
        )
    return {**refused, **told}


def _bytes_needed(trace: Trace) -> int:
    """The least that a real run takes: every weight, and what the greatest operator reads and writes."""
    weights = sum(entry.nbytes for entry in trace.tree.unique_state())
    return weights + max((op.bytes_read + op.bytes_written for op in trace.ops), default=0)
