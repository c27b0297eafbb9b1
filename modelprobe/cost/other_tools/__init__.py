"""The other tools that `modelprobe reconcile` asks what a model costs, each in a process of its own.

To add a tool, follow the recipe in `modelprobe guide architecture`.
"""

from __future__ import annotations

from modelprobe.cost.other_tools import ask
from modelprobe.cost.other_tools.tool import Tool

OTHER_TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("thop", "thop", "MACs", 1, ask.ask_thop, "thop", on_meta=True),
        Tool("torchinfo", "torchinfo", "mult-adds", 1, ask.ask_torchinfo, "torchinfo", on_meta=True),
        Tool("torch", "torch", "FLOPs", 2, ask.ask_torch, "torch"),
        Tool("fvcore", "fvcore", "FLOPs", 1, ask.ask_fvcore, "fvcore", extra="compare"),
        Tool("ptflops", "ptflops", "MACs", 1, ask.ask_ptflops, "ptflops", extra="compare"),
        Tool("ptflops-aten", "ptflops", "MACs", 1, ask.ask_ptflops_aten, "ptflops-aten", extra="compare"),
    )
}
"""Name -> tool, in the order in which they are shown."""
