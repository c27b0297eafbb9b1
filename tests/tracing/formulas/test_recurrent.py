"""Recurrent networks: every weight matrix is multiplied once per step, layer and direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.tracing.by_hand import both, macs, really, zeros

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False},
    {"batch_first": True},
]


class Run(nn.Module):
    """The sequence of outputs of a recurrent module, packed or not."""

    def __init__(self, rnn: nn.Module, lengths: list[int] | None = None) -> None:
        super().__init__()
        self.rnn = rnn
        self.lengths = lengths

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is None:
            out: Tensor = self.rnn(x)[0]
            return out
        packed = pack_padded_sequence(x, torch.tensor(self.lengths))
        return pad_packed_sequence(self.rnn(packed)[0])[0]


class Scriptable(nn.Module):
    """The same without a branch that TorchScript would have to type."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out


def per_step(gates: int, width: int, hidden: int, layers: int, directions: int, projected: int = 0) -> int:
    """Products of one step of one sequence: inputs and states with stacked gates, and the projection."""
    total = 0
    state = projected or hidden
    for _ in range(layers):
        total += directions * (gates * hidden * (width + state) + (projected * hidden))
        width = directions * state
    return total


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_layers_and_directions(cls: type[nn.RNNBase], variant: dict[str, Any]) -> None:
    layers, directions = variant.get("num_layers", 1), 1 + variant.get("bidirectional", False)
    each = per_step(GATES[cls], 5, 6, layers, directions)
    net = Run(cls(5, 6, **variant))
    assert macs(net, zeros(4, 2, 5)) == 8 * each  # 4 x 2 steps, whichever comes first
    assert macs(net, zeros(4, 5)) == 4 * each  # one sequence without a batch


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_scripts(cls: type[nn.RNNBase]) -> None:
    script = torch.jit.script(Scriptable(cls(5, 6, bidirectional=True)).eval())
    assert really(script, zeros(4, 2, 5)).macs == 8 * per_step(GATES[cls], 5, 6, 1, 2)


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_count_real_steps(cls: type[nn.RNNBase]) -> None:
    net = Run(cls(5, 6, bidirectional=True), lengths=[3, 1])
    assert macs(net, zeros(4, 2, 5)) == (3 + 1) * per_step(GATES[cls], 5, 6, 1, 2)


@pytest.mark.parametrize("layers", [1, 2])
def test_projected_lstm(layers: int) -> None:
    net = Run(nn.LSTM(5, 6, proj_size=3, num_layers=layers, bidirectional=True))
    assert macs(net, zeros(4, 2, 5)) == 8 * per_step(4, 5, 6, layers, 2, projected=3)


@pytest.mark.parametrize(
    ("cls", "bias", "beside"),
    [
        # per state: W x + b + U h + c in 4 gates, 3 sigmoids of 4, 2 tanh, f c + i g, o tanh(c)
        (nn.LSTM, True, 4 * 3 + 3 * 4 + 2 + 3 + 1),
        (nn.LSTM, False, 4 * 1 + 3 * 4 + 2 + 3 + 1),
        # 3 gates, 2 sigmoids, r (U h + c), tanh, n + z (h - n)
        (nn.GRU, True, 3 * 3 + 2 * 4 + 1 + 1 + 3),
        (nn.RNN, True, 1 * 3 + 1),
    ],
)
def test_elementwise_part(cls: type[nn.RNNBase], bias: bool, beside: int) -> None:
    found = both(Run(cls(5, 6, bias=bias)), zeros(4, 2, 5))
    assert found.flops - 2 * found.macs == 4 * 2 * 6 * beside


class Steps(nn.Module):
    """Cells stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(5, 6), nn.GRUCell(6, 6), nn.RNNCell(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(2, 6)
        c = x.new_zeros(2, 6)
        for i in range(x.size(0)):
            h, c = self.lstm(x[i], (h, c))
            h = self.rnn(h, self.gru(h, h))
        return h


def test_cells_eager_and_scripted() -> None:
    # 3 steps of 2 sequences: 24 x (5 + 6), 18 x (6 + 6), 6 x (6 + 6)
    expected = 3 * 2 * (24 * 11 + 18 * 12 + 6 * 12)
    assert macs(Steps(), zeros(3, 2, 5)) == expected
    assert really(torch.jit.script(Steps()), zeros(3, 2, 5)).macs == expected


def test_cell_without_a_batch_or_bias() -> None:
    assert macs(nn.GRUCell(5, 6, bias=False), zeros(5)) == 18 * 11
