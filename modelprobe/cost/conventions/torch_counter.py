"""How torch's own `FlopCounterMode` counts: two FLOPs per multiply-accumulate of what its registry knows.

Facts: torch 2.15, `torch/utils/flop_counter.py`, on the CPU. It sees operators below autograd: `mm`, `addmm`, `bmm`,
`baddbmm`, `convolution` and the fused attention kernels. Products with a vector, an LSTM (one kernel there) and all
elementwise work are 0. Before 2.15 the CPU's attention kernel had no formula and was 0 as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelprobe.cost.conventions.convention import Convention, CountedItem, counted_call
from modelprobe.cost.conventions.lowering import (
    ATTENTION,
    CELLS,
    CONVOLUTIONS,
    PRODUCTS,
    is_fused_on_cpu,
    is_unrolled,
    is_vector_product,
    trained_values,
)
from modelprobe.tracing.records import Trace

_KERNEL = "aten._scaled_dot_product_flash_attention_for_cpu"
_COUNTED = CONVOLUTIONS | PRODUCTS | CELLS | {ATTENTION, "aten.baddbmm", "higher_order.flex_attention"}


def torch_items(trace: Trace) -> Iterator[CountedItem]:
    """torch's FLOPs."""
    for index, op in enumerate(trace.ops):
        if is_unrolled(op) or (op.name in _COUNTED and not is_vector_product(op)):
            yield counted_call(index, op, 2 * op.macs)


def torch_items_as_installed(trace: Trace) -> Iterator[CountedItem]:
    """torch's FLOPs by the installed release on the CPU: before 2.15 its fused attention there has no formula."""
    from torch.utils.flop_counter import flop_registry  # asked only when torch's own counter is

    known = _KERNEL in {str(name) for name in flop_registry}
    trained = frozenset() if known else trained_values(trace)
    for item in torch_items(trace):
        op = trace.ops[item.op]
        if known or op.name != ATTENTION or not is_fused_on_cpu(op, trained):
            yield item


CONVENTION = Convention(
    "torch",
    "FLOPs",
    2,
    "torch.utils.flop_counter of torch 2.15",
    "elementwise work, normalization and pooling",
    torch_items,
    as_installed=torch_items_as_installed,
    reasons_fewer={"rnn": "the LSTM kernel has no formula", "matmul": "products with a vector have no formula"},
)
