"""What the gradients of fused recurrent kernels cost. Others arrive step by step, in ordinary operators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.per_output_costs import per_output_formula
from modelprobe.tracing.formulas.recurrent import LSTM_CELL
from modelprobe.tracing.formulas.registry import Cost, formula

LSTM_CELL_BACKWARD = 23
"""Per unit. t = tanh c (1), dc += dh o (1 - t t) (5), do = dh t (1), di, df, dg and the last step's dc by a product
each (4), three derivatives of sigmoid, d y (1 - y), and one of tanh (12)."""

GRU_CELL_BACKWARD = 16
"""Per unit. h = n + z (p - n): dn (2), dz (2), dp (1); n = tanh(a + r b): its derivative (3), dr and db by a product
each (2), two derivatives of sigmoid (6)."""

_LSTM = 2  # torch's number for the mode


@formula("aten::mkldnn_rnn_layer", kind="rnn")
def onednn_layer(x: Tensor, w_ih: Tensor, w_hh: Tensor, *rest: Any, out: Any) -> Cost:
    """One layer and direction of an LSTM, as autograd calls it on the CPU: as `lstm`."""
    steps = x.numel() // x.shape[-1] if x.shape[-1] else 0
    stacked = w_ih.shape[0]
    return Cost(steps * (w_ih.numel() + w_hh.numel()), steps * (stacked * 3 + stacked // 4 * LSTM_CELL))


@per_output_formula("aten::mkldnn_rnn_layer_backward", kind="rnn")
def onednn_layer_backward(x: Tensor, w_ih: Tensor, w_hh: Tensor, *rest: Any, out: Any) -> tuple[Cost, ...]:
    """Every step's gates give a product for the input, the state and both weights, and a sum for the biases, which
    share one gradient; the results are x, w_ih, w_hh, b_ih, b_hh, h, c. The cells stand with the states."""
    steps = x.numel() // x.shape[-1] if x.shape[-1] else 0
    stacked = w_ih.shape[0]
    into, across = steps * w_ih.numel(), steps * w_hh.numel()
    cells = steps * (stacked // 4) * LSTM_CELL_BACKWARD
    return Cost(into), Cost(into), Cost(across), Cost(0, steps * stacked), Cost(), Cost(across, cells), Cost()


@formula("aten::_thnn_fused_lstm_cell_backward_impl", kind="rnn")
def lstm_gates_backward(
    grad_hy: Any, grad_cy: Any, cx: Tensor, cy: Tensor, workspace: Tensor, has_bias: bool, *, out: Any
) -> Cost:
    """The gates of one step alone; the products, and the bias's sum over the batch, are operators of their own."""
    return Cost(0, LSTM_CELL_BACKWARD * cx.numel() + (workspace.numel() if has_bias else 0))


@formula("aten::_thnn_fused_gru_cell_backward", kind="rnn")
def gru_gates_backward(grad: Tensor, workspace: Tensor, has_bias: bool, *, out: Any) -> Cost:
    """The gates of one step alone, and a sum over the batch for each of both biases."""
    return Cost(0, grad.numel() * (GRU_CELL_BACKWARD + (6 if has_bias else 0)))
