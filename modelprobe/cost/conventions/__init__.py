"""How do other tools count? Each convention re-weights the ledger to its tool's own figure, without the tool.

To add a convention:
1. write `tracing/conventions/name.py` with a pure function from a `Trace` to a `Count`, and a `CONVENTION`;
2. add it to `CONVENTIONS` below;
3. add nets with the arithmetic by hand to tests/cost/conventions/test_conventions.py, the live tool to tests/zoo.
"""

from __future__ import annotations

from modelprobe.cost.conventions import fvcore, ptflops, ptflops_aten, published, thop, torch_counter, torchinfo
from modelprobe.cost.conventions.convention import Charge, Convention, Count
from modelprobe.tracing.records import Trace

CONVENTIONS: dict[str, Convention] = {
    module.CONVENTION.name: module.CONVENTION
    for module in (published, torch_counter, fvcore, thop, torchinfo, ptflops, ptflops_aten)
}
"""Name -> convention; modelprobe's own is not among them."""

__all__ = ["CONVENTIONS", "Charge", "Convention", "Count", "count"]


def count(trace: Trace, convention: str) -> Count:
    """What the tool behind `convention` counts of the recorded forward pass."""
    return CONVENTIONS[convention].count(trace)
