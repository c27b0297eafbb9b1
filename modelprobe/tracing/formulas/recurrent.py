"""What recurrent networks cost: every step of every layer and direction, packed sequences by their real lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula

SIGMOID = 4  # negate, exponential, add, divide
LSTM_CELL = 3 * SIGMOID + 2 + 3 + 1  # three sigmoid gates, two tanh, c = f c + i g, h = o tanh(c)
GRU_CELL = 2 * SIGMOID + 1 + 1 + 3  # two sigmoid gates, r * h_n, tanh, h = n + z (h - n)
RNN_CELL = 1


def _run(args: tuple[Any, ...], gates: int, cell: int, projected: bool = False) -> Cost:
    """Sum over layers and directions of what one step costs, times the steps.

    `args` are (input, hx, params, has_biases, ...) or, packed, (data, batch_sizes, hx, params, has_biases, ...);
    packed data is [sum of lengths, features], so padding is not counted. `params` holds for each direction
    w_ih, w_hh[, b_ih, b_hh][, w_hr] with the gates stacked. A step multiplies every matrix once: one MAC per weight.
    The sums of both products and of the biases are elementwise, as are the gates.
    Source: the definitions in the documentation of torch.nn.LSTM, GRU and RNN.
    """
    x, packed = args[0], isinstance(args[3], (list, tuple))
    params: Sequence[Tensor] = args[3] if packed else args[2]
    has_biases = bool(args[4] if packed else args[3])
    steps = x.shape[0] if packed else x.numel() // x.shape[-1] if x.shape[-1] else 0
    macs = flops = 0
    per_direction = 2 + 2 * has_biases + projected
    for start in range(0, len(params), per_direction):
        group = params[start : start + per_direction]
        macs += steps * sum(weight.numel() for weight in group if weight.dim() == 2)
        stacked = group[0].shape[0]
        flops += steps * (stacked * (3 if has_biases else 1) + stacked // gates * cell)
    return Cost(macs, flops)


@formula("aten::lstm", kind="rnn")
def lstm_layers(*args: Any, out: Any, **_: Any) -> Cost:
    """LSTM (Hochreiter and Schmidhuber 1997), with projections (Sak et al. 2014) when proj_size is set."""
    states = args[1] if isinstance(args[1], (list, tuple)) else args[2]
    return _run(args, 4, LSTM_CELL, projected=states[0].shape[-1] != states[1].shape[-1])


@formula("aten::gru", kind="rnn")
def gru_layers(*args: Any, out: Any, **_: Any) -> Cost:
    """GRU (Cho et al. 2014)."""
    return _run(args, 3, GRU_CELL)


@formula("aten::rnn_tanh", "aten::rnn_relu", kind="rnn")
def elman(*args: Any, out: Any, **_: Any) -> Cost:
    """h = tanh(W x + b + U h + c), or with ReLU."""
    return _run(args, 1, RNN_CELL)


def _cell_cost(args: tuple[Any, ...], gates: int, cell: int) -> Cost:
    """One step: `args` are (input, hx, w_ih, w_hh[, b_ih, b_hh])."""
    x, w_ih, w_hh = args[0], args[2], args[3]
    has_biases = len(args) > 4 and args[4] is not None
    steps = x.numel() // x.shape[-1] if x.shape[-1] else 0
    stacked = w_ih.shape[0]
    flops = steps * (stacked * (3 if has_biases else 1) + stacked // gates * cell)
    return Cost(steps * (w_ih.numel() + w_hh.numel()), flops)


@formula("aten::lstm_cell", kind="rnn")
def lstm_cell(*args: Any, out: Any) -> Cost:
    """One step of an LSTM."""
    return _cell_cost(args, 4, LSTM_CELL)


@formula("aten::gru_cell", kind="rnn")
def gru_cell(*args: Any, out: Any) -> Cost:
    """One step of a GRU."""
    return _cell_cost(args, 3, GRU_CELL)


@formula("aten::rnn_tanh_cell", "aten::rnn_relu_cell", kind="rnn")
def elman_cell(*args: Any, out: Any) -> Cost:
    """One step of an Elman network."""
    return _cell_cost(args, 1, RNN_CELL)


@formula("aten::_thnn_fused_lstm_cell", kind="rnn")
def fused_lstm_gates(gates: Tensor, hidden: Tensor, cx: Tensor, bias: Tensor | None = None, *_: Any, out: Any) -> Cost:
    """The gates alone, after both products."""
    return Cost(0, gates.numel() * (3 if bias is not None else 1) + cx.numel() * LSTM_CELL)


@formula("aten::_thnn_fused_gru_cell", kind="rnn")
def fused_gru_gates(gates: Tensor, hidden: Tensor, hx: Tensor, bias: Tensor | None = None, *_: Any, out: Any) -> Cost:
    """The gates alone, after both products."""
    return Cost(0, gates.numel() * (3 if bias is not None else 1) + hx.numel() * GRU_CELL)
