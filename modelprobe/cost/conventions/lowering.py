"""The operators that composite ones become below autograd, where dispatch modes of other tools look.

Facts: torch 2.15 on the CPU, `aten/src/ATen/native/Linear.cpp` and `transformers/sdp_utils_cpp.h`, observed there.
"""

from __future__ import annotations

from modelprobe.tracing.records import OpCall, Trace

CONVOLUTIONS = frozenset(f"aten.conv{way}{dims}d" for way in ("", "_transpose") for dims in (1, 2, 3)) | {
    "aten.convolution",
    "aten._convolution",
}
PRODUCTS = frozenset({"aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "aten.addmm", "aten.inner"})
CELL_GATES = {"aten.lstm_cell": 4, "aten.gru_cell": 3, "aten.rnn_tanh_cell": 1, "aten.rnn_relu_cell": 1}
CELLS = frozenset(CELL_GATES)
_ALWAYS_UNROLLED = frozenset({"aten.gru", "aten.rnn_tanh", "aten.rnn_relu"})
ATTENTION = "aten.scaled_dot_product_attention"


def is_unrolled(op: OpCall) -> bool:
    """Whether a recurrent layer becomes matrix products, step by step.

    An LSTM has a kernel of its own, but for packed sequences, projections, and numbers that oneDNN does not take.
    """
    if op.name != "aten.lstm":
        return op.name in _ALWAYS_UNROLLED
    x, state, cell = op.inputs[0], *op.inputs[1 + is_packed(op) :][:2]
    return is_packed(op) or state.shape[-1] != cell.shape[-1] or x.dtype == "float64"


def is_packed(op: OpCall) -> bool:
    """Whether a recurrent layer was given a packed sequence: rows of all steps, and how many belong to each step."""
    return len(op.inputs[0].shape) == 2 and op.inputs[1].dtype == "int64"


def is_vector_product(op: OpCall) -> bool:
    """Whether a product has a vector for second operand (or two vectors): those become `mv` and `dot`."""
    return op.name in ("aten.matmul", "aten.inner") and len(op.inputs[1].shape) < 2


def adds_bias_inside(op: OpCall) -> bool:
    """Whether a `linear` becomes `addmm`: with a bias, on an input that is contiguous or a matrix; else `mm`, `add`."""
    x = op.inputs[0]
    return len(op.inputs) > 2 and (len(x.shape) <= 2 or x.contiguous)


def trained_values(trace: Trace) -> frozenset[int]:
    """Values that depend on a parameter with `requires_grad`."""
    trainable = {entry.path for entry in trace.tree.state if entry.role == "parameter" and entry.requires_grad}
    found = {value for value, name in trace.named.items() if name in trainable}
    for op in trace.ops:
        if any(ref.value in found for ref in op.inputs):
            found.update(ref.value for ref in op.outputs if ref.dtype.startswith(("float", "bfloat")))
    return frozenset(found)


def is_fused_on_cpu(op: OpCall, trained: frozenset[int]) -> bool:
    """Whether attention takes the CPU's own kernel; else it is taken apart into two `bmm`.

    The kernel wants equal batches and widths, elements of a head side by side, something to attend to, and no mask that
    has a gradient (a learned bias of positions has, where gradients are on). Heads of keys and values may be fewer than
    those of queries, by a whole factor.
    """
    if len(op.inputs) > 3 and op.inputs[3].value in trained:
        return False
    query, key, value = op.inputs[:3]
    if not len(query.shape) == len(key.shape) == len(value.shape) or len(query.shape) not in (3, 4):
        return False
    alike = query.shape[:-3] == key.shape[:-3] and key.shape[:-2] == value.shape[:-2]
    alike = alike and key.shape[-3] > 0 and query.shape[-3] % key.shape[-3] == 0
    widths = query.shape[-1] == key.shape[-1] == value.shape[-1]
    filled = min(query.shape[-2], key.shape[-2]) > 0
    dropout = op.arguments[4] if len(op.arguments) > 4 else 0.0
    return alike and widths and filled and not dropout and all(_side_by_side(ref.strides) for ref in op.inputs[:3])


def _side_by_side(strides: tuple[int, ...]) -> bool:
    return not strides or strides[-1] == 1
