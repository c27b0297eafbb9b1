"""Asking every other tool about a target, as many at once as memory and cores allow, and comparing their results."""

from __future__ import annotations

from collections.abc import Sequence

from modelprobe.console import working
from modelprobe.cost.other_tools import OTHER_TOOLS
from modelprobe.cost.other_tools.child import ENTRY, order_content
from modelprobe.cost.other_tools.comparison import ToolComparison, compare_with_tools
from modelprobe.cost.other_tools.process import Order, ask_all, free_memory
from modelprobe.cost.other_tools.tool import Tool, ToolResult
from modelprobe.environment import usable_cores
from modelprobe.model.build import TargetRequest, fuse_model, load_model, record
from modelprobe.model.zoo.published import published
from modelprobe.report.units import size
from modelprobe.tracing.records import Trace

PROCESS = 600 * 2**20
"""What a child takes beside the model, in bytes: torch and torchvision imported."""


def reconcile(request: TargetRequest, *, fused: bool = False, timeout: float = 120.0) -> ToolComparison:
    """What every tool in `OTHER_TOOLS` says of the target, beside the ledger's own figure; `timeout` in seconds."""
    loaded = fuse_model(load_model(request)) if fused else load_model(request)
    trace = record(loaded, functions=True)
    tools = list(OTHER_TOOLS.values())
    results = _results_of(request, tools, trace, fused, timeout)
    figures = published(loaded.target.source, loaded.target.given, [ref.shape for ref in trace.inputs])
    return compare_with_tools(trace, tools, results, figures if not fused else ())


def _results_of(
    request: TargetRequest, tools: Sequence[Tool], trace: Trace, fused: bool, timeout: float
) -> dict[str, ToolResult]:
    room, needed = free_memory(), _bytes_needed(trace)
    refused: dict[str, ToolResult] = {}
    orders = []
    for tool in tools:
        empty = tool.on_meta and request.device in (None, "meta")
        needs = PROCESS + (0 if empty else needed)
        if not tool.installed:
            refused[tool.name] = ToolResult(None, f"not installed: {tool.remedy}")
        elif room is not None and needs > room:
            text = f"not run: it needs {size(needs)} of memory for weights and activations, {size(room)} is free"
            refused[tool.name] = ToolResult(None, text)
        else:
            content = order_content(request, tool.ask, fused=fused, on_meta=tool.on_meta)
            orders.append(Order(tool.name, ENTRY, content, needs))
    workers = max(1, min(len(orders), usable_cores()))
    with working("asking other tools") as show:
        results = ask_all(
            orders,
            timeout,
            workers=workers,
            memory=room,
            progress=lambda running, done: show(
                f"{len(done)} of {len(orders)} tools have answered; asking {', '.join(running)}"
            ),
        )
    return {**refused, **results}


def _bytes_needed(trace: Trace) -> int:
    """The least that a real run takes: every weight, and what the greatest operator reads and writes."""
    weights = sum(entry.nbytes for entry in trace.tree.unique_state())
    return weights + max((op.bytes_read + op.bytes_written for op in trace.ops), default=0)
