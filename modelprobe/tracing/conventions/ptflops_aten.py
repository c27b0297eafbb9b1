"""How ptflops' `aten` backend counts: multiply-accumulates and biases of six operators below autograd.

Facts: ptflops 0.7.5, `ptflops/aten_ops.py`, on torch 2.15 and the CPU. `convolution`, `addmm`, `mm`, `bmm` alone; a
bias is 1 per output element where it is part of the operator. Attention in the CPU's fused kernel is 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelprobe.tracing.conventions.charge import Charge, Convention, Count, charged, summed
from modelprobe.tracing.conventions.lowering import (
    ATTENTION,
    CELLS,
    CONVOLUTIONS,
    PRODUCTS,
    UNROLLED,
    adds_bias_inside,
    is_fused_on_cpu,
    is_vector_product,
    trained_values,
)
from modelprobe.tracing.ledger import OpCall, Trace


def count(trace: Trace) -> Count:
    """ptflops' MACs by its `aten` backend."""
    return summed(_charges(trace))


def _charges(trace: Trace) -> Iterator[Charge]:
    trained = trained_values(trace)  # ptflops does not switch gradients off
    for index, op in enumerate(trace.ops):
        if op.name in CONVOLUTIONS:
            yield charged(index, op, op.macs + (op.outputs[0].numel if len(op.inputs) > 2 else 0))
        elif op.name == "aten.linear":
            yield charged(index, op, op.macs + (op.outputs[0].numel if adds_bias_inside(op) else 0))
        elif op.name == "aten.addmm":
            yield charged(index, op, op.macs + op.outputs[0].numel)
        elif op.name in CELLS | UNROLLED:
            yield charged(index, op, op.macs + _gate_biases(op))
        elif (op.name in PRODUCTS and not is_vector_product(op)) or (
            op.name == ATTENTION and not is_fused_on_cpu(op, trained)
        ):
            yield charged(index, op, op.macs)


def _gate_biases(op: OpCall) -> int:
    """Both biases of every gate: the vectors among the parameters, as often as the matrices are used."""
    parameters = op.inputs[3 if op.name == "aten.lstm_cell" else 2 :]
    weights = sum(ref.numel for ref in parameters if len(ref.shape) == 2)
    biases = sum(ref.numel for ref in parameters if len(ref.shape) == 1)
    return biases * op.macs // weights if weights else 0


CONVENTION = Convention(
    "ptflops-aten",
    "MACs",
    1,
    "ptflops 0.7.5, backend aten, on torch 2.15",
    "all elementwise work, normalisation, pooling, and attention in the fused kernel",
    count,
    more={"conv": "biases", "matmul": "biases", "rnn": "biases"},
    less={"attention": "the fused kernel has no formula", "rnn": "the LSTM kernel has no formula"},
)
