"""How ptflops' `aten` backend counts: multiply-accumulates and biases of six operators below autograd.

Facts: ptflops 0.7.5, `ptflops/aten_ops.py`, on torch 2.15 and the CPU. `convolution`, `addmm`, `mm`, `bmm` alone; a
bias is 1 per output element where it is part of the operator. Attention in the CPU's fused kernel is 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelprobe.cost.conventions.convention import Convention, CountedItem, counted_call
from modelprobe.cost.conventions.lowering import (
    ATTENTION,
    CELLS,
    CONVOLUTIONS,
    PRODUCTS,
    adds_bias_inside,
    is_fused_on_cpu,
    is_packed,
    is_unrolled,
    is_vector_product,
    trained_values,
)
from modelprobe.tracing.records import OpCall, Trace


def ptflops_aten_items(trace: Trace) -> Iterator[CountedItem]:
    """ptflops' MACs by its `aten` backend."""
    trained = trained_values(trace)  # ptflops does not switch gradients off
    for index, op in enumerate(trace.ops):
        if op.name in CONVOLUTIONS:
            yield counted_call(index, op, op.macs + (op.outputs[0].numel if len(op.inputs) > 2 else 0))
        elif op.name == "aten.linear":
            yield counted_call(index, op, op.macs + (op.outputs[0].numel if adds_bias_inside(op) else 0))
        elif op.name == "aten.addmm":
            yield counted_call(index, op, op.macs + op.outputs[0].numel)
        elif op.name in CELLS or is_unrolled(op):
            yield counted_call(index, op, op.macs + _gate_biases(op))
        elif (op.name in PRODUCTS and not is_vector_product(op)) or (
            op.name == ATTENTION and not is_fused_on_cpu(op, trained)
        ):
            yield counted_call(index, op, op.macs)


def _gate_biases(op: OpCall) -> int:
    """Both biases of every gate: the vectors among the parameters, as often as the matrices are used.

    With the batch first, the first layer's input is turned and not contiguous: a product and a sum.
    """
    parameters = [ref for ref in op.inputs if ref.dtype != "int64"][3 if "lstm" in op.name else 2 :]
    weights = sum(ref.numel for ref in parameters if len(ref.shape) == 2)
    vectors = [ref.numel for ref in parameters if len(ref.shape) == 1]
    if not weights or not vectors:
        return 0
    steps = op.macs // weights
    apart = 0
    if op.name not in CELLS and not is_packed(op) and op.arguments[8] and min(op.inputs[0].shape[:2]) > 1:
        apart = vectors[0] * (2 if op.arguments[7] else 1)
    return (sum(vectors) - apart) * steps


CONVENTION = Convention(
    "ptflops-aten",
    "MACs",
    1,
    "ptflops 0.7.5, backend aten, on torch 2.15",
    "elementwise work, normalization, pooling, and attention in the fused kernel",
    ptflops_aten_items,
    reasons_more={"conv": "biases", "transposed conv": "biases", "matmul": "biases", "rnn": "biases"},
    reasons_fewer={"attention": "the fused kernel has no formula", "rnn": "the LSTM kernel has no formula"},
)
