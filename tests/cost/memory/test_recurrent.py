"""Recurrent layers: peaks on the CPU against torch's profiler, and what an H100 allocated for some of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import modelprobe
from modelprobe.report.blocks import Level
from tests.cost.memory.test_not_recorded import real_peak_of
from tests.sampling import sampled


class Outputs(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)[0]


LAYERS = [
    (lambda: nn.LSTM(32, 64), (20, 4, 32)),
    (lambda: nn.LSTM(32, 64, 2, bidirectional=True, batch_first=True), (8, 50, 32)),
    (lambda: nn.LSTM(32, 64, 2, bidirectional=True, bias=False), (50, 8, 32)),
    (lambda: nn.LSTM(64, 256, 2, dropout=0.1), (60, 16, 64)),
    (lambda: nn.LSTM(64, 64, proj_size=16), (30, 16, 64)),
    (lambda: nn.GRU(32, 64, 2, bidirectional=True), (30, 16, 32)),
    (lambda: nn.RNN(32, 64, 2), (30, 16, 32)),
    (lambda: nn.RNN(32, 64, nonlinearity="relu", batch_first=True), (16, 30, 32)),
]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("make", "shape"), sampled(LAYERS, 4, pytest.mark.zoo))
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_the_peak_is_what_the_profiler_sees(make: Any, shape: tuple[int, ...], train: bool) -> None:
    net = Outputs(make())
    found = modelprobe.estimate_memory(net, torch.empty(shape, device="meta"), train=train)
    assert found.above_start_bytes == pytest.approx(real_peak_of(net, torch.rand(shape), train), rel=0.02)
    assert not [note for note in found.notes if "Outputs.layer" in note.text or "layer:" in note.text]


@pytest.mark.parametrize(
    ("make", "shape", "dtype", "peak"),
    # Bytes above the start of a training step on an H100, cuDNN 9: rows of `python -m tests.benchmarks.recurrent`
    [
        (lambda: nn.LSTM(256, 512, 3, bidirectional=True, batch_first=True), (4, 1, 256), torch.float32, 177_600_512),
        (lambda: nn.GRU(100, 100, 3, bidirectional=True), (32, 32, 100), torch.float32, 85_508_608),
        (lambda: nn.GRU(16, 256, 3), (128, 4, 16), torch.float32, 46_419_968),
        (lambda: nn.GRU(100, 100, batch_first=True), (32, 1, 100), torch.float16, 8_870_400),
    ],
)
def test_on_a_gpu(make: Any, shape: tuple[int, ...], dtype: torch.dtype, peak: int) -> None:
    net = Outputs(make().to(dtype))
    given = torch.empty(shape, device="meta", dtype=dtype)
    found = modelprobe.estimate_memory(net, given, train=True, device="cuda")
    assert found.above_start_bytes == pytest.approx(peak, rel=0.2)  # the rule; its median error is 0.5 %
    assert "layer: cuDNN's workspace for recurrent layers follows a rule measured on an H100." in [
        note.text for note in found.notes
    ]


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([6, 4, 1]))
        return self.layer(packed)[0].data


def test_packed_sequences_are_followed_and_said() -> None:
    given = torch.rand(6, 3, 8)
    (note,) = (n for n in modelprobe.estimate_memory(Packed(), given).notes if "packed" in n.text)
    assert note.level is Level.WARNING
    step = modelprobe.estimate_memory(Packed(), given, train=True, device="cuda")
    assert step.parts["gradients"] == step.parts["weights"]


def test_torchs_own_functions_are_left_as_they_were() -> None:
    before = torch._VF.lstm, torch._VF.gru
    modelprobe.estimate_memory(Outputs(nn.LSTM(4, 4)), torch.rand(3, 2, 4))
    assert (torch._VF.lstm, torch._VF.gru) == before
