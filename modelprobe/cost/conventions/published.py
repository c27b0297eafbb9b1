"""How torchvision counts in `weights.meta["_ops"]`: multiply-accumulates of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from modelprobe.cost.conventions.convention import Convention, CountedItem, counted_call
from modelprobe.tracing.records import Trace


def published_items(trace: Trace) -> Iterator[CountedItem]:
    """Convolutions, matrix products and attention as the two products it is; nothing else."""
    for index, op in enumerate(trace.ops):
        if op.kind in ("conv", "matmul", "attention"):
            yield counted_call(index, op, op.macs)


CONVENTION = Convention(
    "torchvision",
    "MACs",
    1,
    "torchvision's weights.meta['_ops'] (0.29)",
    "everything but convolutions, matrix products and attention",
    published_items,
)
