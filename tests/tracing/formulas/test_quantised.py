"""Quantised networks, converted by torch itself: the MACs of the network that they were, on the whole numbers."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelprobe.tracing.formulas import rule_for
from tests.tracing.by_hand import beside, only, really, zeros

quantization = pytest.importorskip("torch.ao.quantization")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="needs fbgemm"),
]


class Small(nn.Module):
    """Everything between a stub and its opposite: fused convolutions, a sum, pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.relu = (
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
        )
        self.point, self.act, self.head = nn.Conv2d(6, 6, 1), nn.Hardswish(), nn.Linear(6, 5)
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.quant(x))))
        x = self.act(self.sum.add_relu(x, self.point(x)))
        out: Tensor = self.dequant(self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return out


def converted() -> nn.Module:
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = quantization.fuse_modules(Small().eval(), [["conv", "norm", "relu"]])
        net.qconfig = quantization.get_default_qconfig("fbgemm")
        quantization.prepare(net, inplace=True)
        net(torch.rand(1, 4, 8, 8))
        found: nn.Module = quantization.convert(net)
    return found


@pytest.mark.zoo
def test_static() -> None:
    found = really(converted(), zeros(1, 4, 8, 8))
    # 6 x 16 outputs of 2 x 9 products; of 6; 6 -> 5
    assert found.macs == 6 * 16 * 18 + 6 * 16 * 6 + 6 * 5
    conv = only(found, "quantized.conv2d_relu")
    # bias and ReLU; from the accumulator scaled, rounded, shifted and bounded twice: 5
    assert (conv.kind, conv.flops) == ("conv", 96 * (1 + 1 + 5))
    assert only(found, "quantized.add_relu").flops == 96 * (2 + 2 * 2 + 5)  # two operands of 2 each, back 5
    assert only(found, "aten.quantize_per_tensor").flops == 256 * 5
    assert only(found, "aten.dequantize").flops == 5 * 2
    assert conv.bytes_written == 96  # one byte per element
    assert not found.gaps  # the scales that Python asks for change numbers, not work


@pytest.mark.zoo
def test_static_as_a_script() -> None:
    net = converted()
    script = torch.jit.trace(net, zeros(1, 4, 8, 8))
    found = really(script, zeros(1, 4, 8, 8))
    assert found.macs == really(net, zeros(1, 4, 8, 8)).macs
    assert not found.gaps


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_packed_weights_of_every_rank(dims: int) -> None:
    torch.backends.quantized.engine = "fbgemm"
    x = torch.quantize_per_tensor(zeros(1, 4, *[5] * dims), 0.1, 0, torch.quint8)
    weight = torch.quantize_per_tensor(zeros(6, 2, *[3] * dims), 0.1, 0, torch.qint8)
    one, none = [1] * dims, [0] * dims
    pack = getattr(torch.ops.quantized, f"conv{dims}d_prepack")(weight, None, one, none, one, 2)
    plain = really(lambda x: getattr(torch.ops.quantized, f"conv{dims}d")(x, pack, 0.1, 0), x)
    assert plain.macs == 6 * 3**dims * 2 * 3**dims
    weight = torch.quantize_per_tensor(zeros(4, 6, *[3] * dims), 0.1, 0, torch.qint8)
    pack = getattr(torch.ops.quantized, f"conv_transpose{dims}d_prepack")(weight, None, one, none, none, one, 1)
    back = really(lambda x: getattr(torch.ops.quantized, f"conv_transpose{dims}d")(x, pack, 0.1, 0), x)
    assert back.macs == 4 * 5**dims * 6 * 3**dims


def dynamic(net: nn.Module, cls: type[nn.Module]) -> nn.Module:
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: nn.Module = quantization.quantize_dynamic(net, {cls}, dtype=torch.qint8)
    return found


def test_dynamic_linear() -> None:
    found = really(dynamic(nn.Sequential(nn.Linear(5, 4)), nn.Linear), zeros(2, 5))
    assert found.macs == 2 * 5 * 4
    # per input its extremes and 5 to quantise; per output the bias and 2 to scale
    assert beside(found) == 10 * 7 + 8 * 3


class First(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out


@pytest.mark.parametrize(("cls", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_dynamic_recurrent(cls: type[nn.RNNBase], gates: int) -> None:
    found = really(dynamic(First(cls(5, 6, 2, bidirectional=True)), cls), zeros(4, 2, 5))
    # 8 steps, two directions: 5 inputs and 6 states, then 12 and 6
    assert found.macs == 8 * 2 * gates * 6 * ((5 + 6) + (12 + 6))


@pytest.mark.parametrize(("cls", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_dynamic_cells(cls: type[nn.Module], gates: int) -> None:
    found = really(dynamic(nn.Sequential(cls(5, 6)), cls), zeros(2, 5))  # type: ignore[call-arg]
    assert found.macs == 2 * gates * 6 * (5 + 6)


def test_int4_weights() -> None:
    half = torch.bfloat16
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    product = torch.ops.aten._weight_int4pack_mm_for_cpu
    given = (zeros(4, 64, dtype=half), zeros(16, 64, dtype=torch.int32), zeros(2, 16, 2, dtype=half))
    found = really(lambda a, w, s: product(a, pack(w, 1), 32, s), *given)
    assert found.macs == 4 * 64 * 16
    assert beside(found) == 2 * 64 * 16  # scale x q + zero, once per weight


@pytest.mark.parametrize("name", ["int8_scaled_mm", "int8_linear_matmul", "gemm_4bit", "gemv_4bit"])
def test_products_of_bitsandbytes(name: str) -> None:
    rule = rule_for(f"bitsandbytes::{name}")
    assert rule is not None
    assert rule.formula is not None
    # 2 x 64 by a weight of 32 x 64, kept as 1,024 bytes of two values each where it has four bits
    cost = rule.formula(torch.zeros(2, 64), torch.zeros(1024, dtype=torch.uint8), out=torch.zeros(2, 32))
    assert cost.macs == 2 * 64 * 32
