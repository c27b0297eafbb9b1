"""How torchvision counts in `weights.meta["_ops"]`: multiply-accumulates of convolutions and matrix products."""

from __future__ import annotations

from modelprobe.cost.conventions.convention import Convention, Count, charged, summed
from modelprobe.tracing.records import Trace

KINDS = frozenset({"conv", "matmul", "attention"})


def count(trace: Trace) -> Count:
    """Convolutions, matrix products and attention as the two products it is; nothing else."""
    return summed(charged(index, op, op.macs) for index, op in enumerate(trace.ops) if op.kind in KINDS)


CONVENTION = Convention(
    "torchvision",
    "MACs",
    1,
    "torchvision's weights.meta['_ops'] (0.29)",
    "anything but convolutions, matrix products and attention",
    count,
)
