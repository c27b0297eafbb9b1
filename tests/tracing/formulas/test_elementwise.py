"""Elementwise operators, activations, norms, reductions, sorting, lookups and transforms, each by its definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tracing.by_hand import both, flops, only, zeros

SIGMOID = 4  # 1 / (1 + exp(-x)): negation, exponential, sum, division
SOFTMAX = 5  # maximum, difference, exponential, sum, division

ACTIVATIONS = {
    "CELU": 5,  # max(0, x) + min(0, a (exp(x / a) - 1)): division, exponential, difference, product, comparison
    "ELU": 4,  # a (exp(x) - 1), and a comparison
    "GELU": 5,  # x / 2 (1 + erf(x / sqrt 2))
    "GLU": SIGMOID + 1,
    "Hardshrink": 2,
    "Hardsigmoid": 4,  # x / 6 + 1 / 2 between 0 and 1
    "Hardswish": 5,
    "Hardtanh": 2,
    "LeakyReLU": 2,
    "LogSigmoid": 4,  # -log1p(exp(-x))
    "LogSoftmax": SOFTMAX,  # with a second difference for the division
    "Mish": 4,  # x tanh(log1p(exp(x)))
    "PReLU": 2,
    "RReLU": 2,
    "ReLU": 1,
    "ReLU6": 2,
    "SELU": 5,
    "SiLU": SIGMOID + 1,
    "Sigmoid": SIGMOID,
    "Softmax": SOFTMAX,
    "Softmax2d": SOFTMAX,
    "Softmin": 1 + SOFTMAX,
    "Softplus": 2,  # log1p(exp(x))
    "Softshrink": 3,
    "Softsign": 3,  # x / (1 + |x|)
    "Tanh": 1,
    "Tanhshrink": 2,
    "Threshold": 1,
}


def activation_modules() -> dict[str, type[nn.Module]]:
    """Every activation that torch.nn has, those with projections apart."""
    return {
        name: cls
        for name, cls in vars(nn.modules.activation).items()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and hasattr(nn, name) and name != "MultiheadAttention"
        if name != "Module"
    }


def test_no_activation_is_forgotten() -> None:
    assert set(activation_modules()) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("train", [False, True])
def test_activation(name: str, train: bool) -> None:
    net = activation_modules()[name](**({"threshold": 0.0, "value": 0.0} if name == "Threshold" else {}))
    x = zeros(2, 4, 3, 2)
    out = 24 if name == "GLU" else 48
    assert flops(net, x, train=train) == out * ACTIVATIONS[name]


def test_gelu_by_tanh() -> None:
    # x / 2 (1 + tanh(c (x + d x x x))): 2 + 1 + 1 + 1 inside, tanh, 1 + , and two products
    assert flops(nn.GELU("tanh"), zeros(10)) == 90


@pytest.mark.parametrize(
    ("net", "evaluated", "trained"),
    [
        # stored statistics fold with the affine pair to one product and one sum; else mean, difference, square,
        # sum, product, then weight and bias
        (nn.BatchNorm2d(8), 2, 7),
        (nn.BatchNorm2d(8, affine=False), 2, 5),
        (nn.BatchNorm2d(8, track_running_stats=False), 7, 7),
        (nn.InstanceNorm2d(8), 5, 5),
        (nn.InstanceNorm2d(8, affine=True, track_running_stats=True), 2, 7),
        (nn.GroupNorm(2, 8), 7, 7),
        (nn.GroupNorm(2, 8, affine=False), 5, 5),
        (nn.LayerNorm(2), 7, 7),
        (nn.LayerNorm([3, 2], bias=False), 6, 6),
        (nn.LayerNorm(2, elementwise_affine=False), 5, 5),
        (nn.RMSNorm(2), 4, 4),  # square, sum, product, weight
        (nn.RMSNorm(2, elementwise_affine=False), 3, 3),
    ],
    ids=str,
)
def test_norms(net: nn.Module, evaluated: int, trained: int) -> None:
    x = zeros(2, 8, 3, 2)
    assert flops(net, x) == 96 * evaluated
    counter = sum(op.flops for op in both(net, x, train=True).ops if op.name == "aten.add_")  # batches seen
    assert flops(net, x, train=True) == 96 * trained + counter


def test_local_response_and_weight_norm() -> None:
    # square, mean of 3 (3), product, sum, power, division
    assert flops(nn.LocalResponseNorm(3), zeros(2, 8, 3, 2)) == 96 * (1 + 3 + 1 + 1 + 1 + 1)
    found = both(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), zeros(2, 4))
    assert only(found, "aten._weight_norm").flops == 12 * 3  # square, sum, product
    assert found.macs == 2 * 12


REDUCTIONS: list[tuple[str, Callable[[Tensor], Any], int]] = [
    ("sum", lambda x: x.sum(1), 32),
    ("mean", lambda x: x.mean(), 32),
    ("max", lambda x: x.max(dim=1), 32),
    ("argmin", lambda x: x.argmin(), 32),
    ("cumsum", lambda x: x.cumsum(1), 32),
    ("norm", lambda x: x.norm(), 64),  # a square and a sum
    ("var", lambda x: x.var(1), 128),  # mean, difference, square, sum
    ("logsumexp", lambda x: x.logsumexp(1), 128),
    ("trace", lambda x: x.trace(), 4),
    ("diff", lambda x: x.diff(), 28),  # 4 x 7 differences
    ("clamp", lambda x: x.clamp(0, 1), 64),
    ("one bound", lambda x: x.clamp(min=0), 32),
    ("maximum", lambda x: torch.maximum(x, x[:1]), 32),
    ("sum of two", lambda x: x + x, 32),
    ("sum with a factor", lambda x: torch.add(x, x, alpha=2), 64),
    ("difference with a factor", lambda x: torch.rsub(x, 1, 3), 64),
    ("lerp", lambda x: torch.lerp(x, x, 0.5), 96),
    ("addcmul", lambda x: torch.addcmul(x, x, x), 96),
    ("where", lambda x: torch.where(x > 0, x, x), 32),  # the comparison
    ("sort rows", lambda x: x.sort(), 32 * 3),  # log2 8
    ("sort columns", lambda x: x.sort(dim=0), 32 * 2),  # log2 4
    ("stable", lambda x: x.sort(dim=0, stable=True), 32 * 2),
    ("topk", lambda x: x.topk(2, dim=0), 32 * 2),
    ("argsort", lambda x: x.argsort(0), 32 * 2),
    ("msort", lambda x: x.msort(), 32 * 2),
    ("kthvalue", lambda x: x.kthvalue(2, dim=1), 32 * 3),
    ("bucketize", lambda x: torch.bucketize(x, x[0]), 32 * 3),
    ("cosine", lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1), 16 * (8 * 6 + 4)),
    ("mse", lambda x: F.mse_loss(x, x), 96),  # difference, square, sum
    ("eval dropout", lambda x: F.dropout(x, training=False), 0),
    ("dropout", lambda x: F.dropout(x, training=True), 64),
]


@pytest.mark.parametrize(
    ("function", "expected"), [case[1:] for case in REDUCTIONS], ids=[case[0] for case in REDUCTIONS]
)
def test_reductions_and_searches(function: Callable[[Tensor], Any], expected: int) -> None:
    assert flops(function, zeros(4, 8)) == expected


def index(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def test_rows_that_accumulate() -> None:
    base, rows = zeros(10, 4), zeros(3, 4)
    assert flops(lambda x, i, s: x.index_add(0, i, s), base, index(3), rows) == 12
    assert flops(lambda x, i, s: x.scatter_add(0, i, s), base, index(3, 4), rows) == 12
    assert flops(lambda x, i, s: x.scatter_reduce(0, i, s, "amax"), base, index(3, 4), rows) == 12
    assert flops(lambda x, i, s: x.index_put((i,), s, accumulate=True), base, index(3), rows) == 12
    assert flops(lambda x, i, s: x.index_put((i,), s), base, index(3), rows) == 0


def moved(function: Callable[..., Any], name: str, *args: Tensor) -> tuple[int, int]:
    """Bytes that the operator reads and writes."""
    call = only(both(function, *args), name)
    return call.bytes_read, call.bytes_written


def test_bytes() -> None:
    x, y = zeros(10, 4), zeros(10, 4)  # 160 bytes each
    assert moved(lambda x: x.view(40), "aten.view", x) == (0, 0)
    assert moved(lambda x: x.expand(3, 10, 4), "aten.expand", x) == (0, 0)
    assert moved(lambda x: x.t().contiguous(), "aten.contiguous", x) == (160, 160)
    assert moved(lambda x: x.add_(1), "aten.add_", x) == (160, 160)
    assert moved(lambda x: x.fill_(1), "aten.fill_", x) == (0, 160)
    assert moved(lambda x, y: x.copy_(y), "aten.copy_", x, y) == (160, 160)
    assert moved(lambda x: torch.randn_like(x), "aten.randn_like", x) == (0, 160)
    assert moved(lambda x: torch.empty_like(x), "aten.empty_like", x) == (0, 0)
    assert moved(lambda x, i: x[i], "aten.index", x, index(3)) == (3 * 16 + 3 * 8, 3 * 16)
    assert moved(nn.Embedding(100, 4), "aten.embedding", index(3)) == (3 * 16 + 3 * 8, 3 * 16)


@pytest.mark.parametrize(("mode", "expected"), [("sum", 6 * 8), ("max", 6 * 8), ("mean", 6 * 8 + 2 * 8)])
def test_embedding_bags(mode: str, expected: int) -> None:
    call = only(both(nn.EmbeddingBag(100, 8, mode=mode), index(2, 3)), "aten.embedding_bag")
    assert call.flops == expected  # a sum or comparison per element of 6 rows; a division per bag
    assert call.bytes_read == 6 * 8 * 4 + 6 * 8 + 2 * 8  # rows, indices, offsets


def test_renormalised_embedding() -> None:
    # the norm of 3 rows (2 per element) and a product
    assert flops(nn.Embedding(100, 8, max_norm=1.0), index(3)) == 3 * 8 * 3


def test_fourier() -> None:
    # 5 N log2 n real operations for N points in transforms of n; half of it on real data
    complex64 = torch.complex64
    assert flops(torch.fft.fft, zeros(4, 8, dtype=complex64)) == 5 * 32 * 3
    assert flops(torch.fft.fft2, zeros(4, 8, 16, dtype=complex64)) == 5 * 512 * 7
    assert flops(torch.fft.fftn, zeros(4, 8, dtype=complex64)) == 5 * 32 * 5
    assert flops(lambda x: torch.fft.fft(x, dim=0), zeros(4, 8, dtype=complex64)) == 5 * 32 * 2
    assert flops(lambda x: torch.fft.fft(x, n=4), zeros(4, 8, dtype=complex64)) == 5 * 16 * 2
    assert flops(torch.fft.rfft, zeros(4, 8)) == 5 * 32 * 3 // 2
    assert flops(torch.fft.rfft2, zeros(4, 8, 8)) == 5 * 256 * 6 // 2
    assert flops(torch.fft.irfft2, zeros(4, 8, 5, dtype=complex64)) == 5 * 256 * 6 // 2


def test_linear_algebra_by_leading_terms() -> None:
    n = 6
    assert flops(torch.linalg.inv, torch.eye(n)) == 2 * n**3
    assert flops(torch.linalg.cholesky, torch.eye(n)) == n**3 // 3
    assert flops(torch.linalg.eigh, torch.eye(n)) == 9 * n**3
    assert flops(torch.linalg.solve, torch.eye(n), zeros(n, 2)) == 2 * n**3 // 3 + 2 * n * n * 2
    assert flops(lambda x: torch.linalg.qr(x), zeros(8, n)) == 2 * (6 * 8 * n**2 - 2 * n**3) // 3
    assert flops(torch.linalg.svd, zeros(8, n)) == 14 * 8 * n**2 + 8 * n**3
