"""Every convention against its live tool, to the integer, on single layers of torch.nn and on functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelprobe.cost.conventions import CONVENTIONS, find_convention
from modelprobe.cost.other_tools.comparison import explain
from modelprobe.tracing.recorder import trace
from tests.zoo.live_tools import INSTALLED, ask

pytestmark = pytest.mark.zoo

Case = tuple[str, nn.Module, tuple[Tensor, ...]]
zeros = torch.zeros

IMAGES, TOKENS, OTHERS = zeros(2, 8, 12, 12), zeros(3, 5, 8), zeros(3, 7, 8)
HEADS = zeros(3, 4, 5, 8)
SIGNALS = {1: zeros(2, 8, 20), 2: IMAGES, 3: zeros(2, 8, 6, 6, 6)}

RAISES = {("fvcore", "matmul with a vector"), ("fvcore", "matmul of vectors")}
"""(tool, case) where the tool itself raises."""


class Call(nn.Module):
    """A function of up to three tensors and the layers it uses, with names that tools can pass."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Any:
        return self.function(*[x for x in (a, b, c) if x is not None], *self.layers)


def layer(name: str, dims: int | str, *args: Any, **kwargs: Any) -> nn.Module:
    """`layer("Conv", 2, ...)` is `nn.Conv2d(...)`."""
    return getattr(nn, f"{name}{dims}d")(*args, **kwargs)


def convolutions() -> Iterator[Case]:
    for (dims, x), bias, groups in itertools.product(SIGNALS.items(), (True, False), (1, 2)):
        how = {"stride": 2, "padding": 1, "bias": bias, "groups": groups}
        yield f"conv{dims}d {how}", layer("Conv", dims, 8, 6, 3, **how), (x,)
        yield f"transposed{dims}d {how}", layer("ConvTranspose", dims, 8, 6, 3, output_padding=1, **how), (x,)
    for (dims, x), bias, stride, padding in itertools.product(SIGNALS.items(), (True, False), (1, 2), (0, 3)):
        how = {"stride": stride, "padding": padding, "bias": bias, "groups": 2, "dilation": 2}
        yield f"conv{dims}d {how}", layer("Conv", dims, 8, 6, 2, **how), (x,)
        yield f"transposed{dims}d {how}", layer("ConvTranspose", dims, 8, 6, 2, **how), (x,)
    for dims, x in SIGNALS.items():
        yield f"conv{dims}d same", layer("Conv", dims, 8, 6, 3, padding="same"), (x,)
        yield f"conv{dims}d circular", layer("Conv", dims, 8, 6, 3, padding=1, padding_mode="circular"), (x,)
    yield "subclass", nn.Sequential(type("MyConv", (nn.Conv2d,), {})(8, 4, 3)), (IMAGES,)
    yield "shared", (lambda conv: nn.Sequential(conv, nn.ReLU(), conv))(nn.Conv2d(8, 8, 3)), (IMAGES,)


def norms() -> Iterator[Case]:
    for (dims, x), affine, stats in itertools.product(SIGNALS.items(), (True, False), (True, False)):
        how = {"affine": affine, "track_running_stats": stats}
        yield f"batch norm {dims} {how}", layer("BatchNorm", dims, 8, **how), (x,)
        yield f"instance norm {dims} {how}", layer("InstanceNorm", dims, 8, **how), (x,)
        yield f"group norm {dims} {affine}", nn.GroupNorm(2, 8, affine=affine), (x,)
    yield "layer norm", nn.LayerNorm(12), (IMAGES,)
    yield "layer norm, plain", nn.LayerNorm((12, 12), elementwise_affine=False), (IMAGES,)
    yield "RMS norm", nn.RMSNorm(12), (IMAGES,)


def pooling_and_resizing() -> Iterator[Case]:
    for dims, x in SIGNALS.items():
        yield f"max {dims}", layer("MaxPool", dims, 2), (x,)
        yield f"average {dims}", layer("AvgPool", dims, 2), (x,)
        for size in (1, 3):
            yield f"adaptive average {dims} {size}", layer("AdaptiveAvgPool", dims, size), (x,)
            yield f"adaptive max {dims} {size}", layer("AdaptiveMaxPool", dims, size), (x,)
    for mode in ("nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"):
        x = {"linear": SIGNALS[1], "trilinear": SIGNALS[3]}.get(mode, IMAGES)
        yield f"upsample {mode}", nn.Upsample(scale_factor=2, mode=mode), (x,)
        yield f"upsample {mode} to 7", nn.Upsample(size=7, mode=mode), (x,)
        yield f"interpolate {mode}", Call(lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode)), (x,)
    yield "grid_sample", Call(lambda x: F.grid_sample(x, zeros(2, 5, 5, 2), align_corners=False)), (IMAGES,)


def activations() -> Iterator[Case]:
    for name in "ReLU ReLU6 LeakyReLU PReLU ELU GELU SiLU Hardswish Sigmoid Tanh Softplus Mish GLU".split():
        yield name, getattr(nn, name)(), (IMAGES,)
    for name in "relu relu6 leaky_relu elu gelu silu hardswish sigmoid tanh".split():
        yield f"F.{name}", Call(getattr(F, name)), (IMAGES,)
    for dim in (0, 1, -1):
        yield f"softmax {dim}", nn.Softmax(dim), (IMAGES,)
        yield f"F.softmax {dim}", Call(lambda x, dim=dim: F.softmax(x, dim)), (IMAGES,)


def products() -> Iterator[Case]:
    a, b, vector = zeros(3, 4, 5), zeros(3, 5, 6), zeros(5)
    for bias in (True, False):
        yield f"linear {bias}", nn.Linear(12, 5, bias=bias), (IMAGES,)
        yield f"linear of a matrix {bias}", nn.Linear(12, 5, bias=bias), (zeros(3, 12),)
        yield f"linear of a vector {bias}", nn.Linear(12, 5, bias=bias), (zeros(12),)
        turned = Call(lambda x, layer: layer(x.transpose(1, 2)), nn.Linear(8, 5, bias=bias))
        yield f"linear of what is not contiguous {bias}", turned, (zeros(3, 8, 7),)
    yield "matmul", Call(torch.matmul), (a, b)
    yield "@", Call(lambda a, b: a @ b), (a, b)
    yield "matmul with a matrix", Call(torch.matmul), (a, b[0])
    yield "matmul that broadcasts", Call(torch.matmul), (zeros(2, 3, 4, 5), b)
    yield "matmul with a vector", Call(torch.matmul), (a, vector)
    yield "matmul of vectors", Call(torch.matmul), (vector, vector)
    yield "bmm", Call(torch.bmm), (a, b)
    yield "x.bmm", Call(lambda a, b: a.bmm(b)), (a, b)
    yield "mm", Call(torch.mm), (a[0], b[0])
    yield "addmm", Call(torch.addmm), (zeros(4, 6), a[0], b[0])
    yield "baddbmm", Call(torch.baddbmm), (zeros(3, 4, 6), a, b)
    yield "F.linear", Call(lambda a: F.linear(a, zeros(7, 5), zeros(7))), (a,)
    for equation in ("bij,bjk->bik", "bij,bjk->ik", "bij,bjk->bijk"):
        yield equation, Call(lambda a, b, equation=equation: torch.einsum(equation, a, b)), (a, b)
    yield "mul and add", Call(lambda a: torch.add(torch.mul(a, a), a) + a * a - a.mul(2).add(a)), (a,)
    yield "embedding", nn.Embedding(10, 4), (zeros(2, 5, dtype=torch.long),)


def attention() -> Iterator[Case]:
    for batch_first, bias in itertools.product((True, False), (True, False)):
        heads = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first)
        yield f"weights asked for {batch_first} {bias}", Call(lambda x, m: m(x, x, x)[0], heads), (TOKENS,)
        plain = Call(lambda x, m: m(x, x, x, need_weights=False)[0], heads)
        yield f"weights not asked for {batch_first} {bias}", plain, (TOKENS,)
    cross = Call(lambda x, k, m: m(x, k, k, need_weights=False)[0], nn.MultiheadAttention(8, 2, batch_first=True))
    yield "cross attention", cross, (TOKENS, OTHERS)
    yield "encoder layer", nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (TOKENS,)
    yield "decoder layer", nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), (TOKENS, OTHERS)
    yield "transformer", nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (TOKENS, OTHERS)
    dot = F.scaled_dot_product_attention
    for shape in ((4, 5, 8), (1, 5, 8), (4, 7, 8)):
        key = zeros(3, *shape)
        yield f"fused, keys {shape}", Call(dot), (HEADS, key, key)
    for shape in ((1, 4, 5, 8), (1, 1, 5, 8)):
        yield f"fused, keys of one batch {shape}", Call(dot), (HEADS, zeros(*shape), zeros(*shape))
    grouped = Call(lambda q, k, v: dot(q, k, v, enable_gqa=True))
    yield "fused, grouped heads", grouped, (HEADS, zeros(3, 2, 5, 8), zeros(3, 2, 5, 8))
    yield "fused, other values", Call(dot), (HEADS, zeros(3, 4, 7, 8), zeros(3, 4, 7, 6))
    yield "fused, causal", Call(lambda q: dot(q, q, q, is_causal=True)), (HEADS,)
    yield "fused, masked", Call(lambda q: dot(q, q, q, attn_mask=zeros(5, 5))), (HEADS,)
    yield "fused, turned", Call(lambda q: dot(*(q.transpose(-1, -2),) * 3)), (HEADS,)
    for x in (zeros(5, 8), TOKENS, zeros(2, 3, 2, 5, 8), HEADS.double(), HEADS.bfloat16()):
        yield f"fused, {x.dim()} {x.dtype}", Call(lambda q: dot(q, q, q)), (x,)


def recurrent() -> Iterator[Case]:
    switches = (False, True)
    for cls, layers, bias, both, first in itertools.product(
        (nn.RNN, nn.GRU, nn.LSTM), (1, 2), switches, switches, switches
    ):
        how = {"num_layers": layers, "bias": bias, "bidirectional": both, "batch_first": first}
        yield f"{cls.__name__} {how}", Call(lambda x, m: m(x)[0], cls(3, 4, **how)), (zeros(5, 2, 3),)
        yield f"packed {cls.__name__} {how}", Call(packed, cls(3, 4, **how)), (zeros(5, 2, 3),)
    for cls in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        yield cls.__name__, Call(lambda x, m: m(x)[0], cls(3, 4)), (zeros(2, 3),)
    projected = nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True)
    yield "LSTM with projections", Call(lambda x, m: m(x)[0], projected), (zeros(5, 2, 3),)
    yield "LSTM of doubles", Call(lambda x, m: m(x)[0], nn.LSTM(3, 4).double()), (zeros(5, 2, 3).double(),)
    yield "LSTM of one sequence", Call(lambda x, m: m(x)[0], nn.LSTM(3, 4)), (zeros(5, 3),)


def packed(x: Tensor, model: nn.RNNBase) -> Tensor:
    """Two sequences, the second one shorter (five of them, where the batch comes first)."""
    lengths = torch.tensor([2, 2, 2, 1, 1] if model.batch_first else [5, 2])
    given = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=model.batch_first)
    return model(given)[0].data


FAMILIES = (convolutions, norms, pooling_and_resizing, activations, products, attention, recurrent)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("tool", [name for name in INSTALLED if name in CONVENTIONS])
def test_equals_the_tool(tool: str, family: Callable[[], Iterator[Case]]) -> None:
    different = {}
    for name, model, args in family():
        if (tool, name) in RAISES or (tool == "ptflops" and name.startswith("packed")):
            with pytest.raises(Exception, match=r"index|PackedSequence"):
                ask(tool, model, *args)
            continue
        how = "real" if name.startswith("packed") else "meta"
        found = find_convention(tool).predict(trace(model.eval(), *args, device=how, functions=tool == "ptflops"))
        live = ask(tool, model, *args)
        if found.total != live:
            different[name] = (found.total, live)
    assert different == {}


@pytest.mark.parametrize("tool", [name for name in INSTALLED if name in CONVENTIONS])
def test_every_difference_of_a_convolution_has_its_reason(tool: str) -> None:
    """A tool counts a convolution by its input or its output, with biases or without, or over the batch's mean."""
    convention = find_convention(tool)
    for name, model, args in convolutions():
        recorded = trace(model.eval(), *args, functions=tool == "ptflops")
        reasons = explain(recorded, convention.predict(recorded), convention)
        live = ask(tool, model, *args) / convention.per_mac
        assert recorded.macs + sum(reason.difference for reason in reasons) == pytest.approx(live), name
        assert all(reason.why for reason in reasons), (name, reasons)
        by_output = tool in ("thop", "torchinfo") and name.startswith("transposed")
        assert {reason.why for reason in reasons if "per output position" in reason.why} or not by_output
