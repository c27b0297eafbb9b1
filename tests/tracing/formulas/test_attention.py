"""Attention against its definition: the scores L x S x E, their softmax, the sum over values L x S x Ev."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tracing.by_hand import both, flops, macs, only, really, sees_higher_order, zeros

SOFTMAX = 5  # maximum, difference, exponential, sum, quotient
SCALE = 1


def test_scores_and_values() -> None:
    q, k, v = zeros(2, 3, 4, 8), zeros(2, 3, 5, 8), zeros(2, 3, 5, 6)
    scores = 2 * 3 * 4 * 5
    found = both(F.scaled_dot_product_attention, q, k, v)
    assert found.macs == scores * (8 + 6)
    assert found.flops - 2 * found.macs == scores * (SCALE + SOFTMAX)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_is_a_sum_per_score(dtype: torch.dtype) -> None:
    q, k, mask = zeros(2, 3, 4, 8), zeros(2, 3, 5, 8), zeros(4, 5, dtype=dtype)
    scores = 2 * 3 * 4 * 5
    found = both(lambda q, k, m: F.scaled_dot_product_attention(q, k, k, attn_mask=m), q, k, mask)
    assert found.macs == scores * 16
    assert found.flops - 2 * found.macs == scores * (SCALE + SOFTMAX + 1)


def test_causal_counts_as_dense() -> None:
    x = zeros(1, 2, 4, 8)
    assert macs(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), x) == 2 * 16 * 16


def test_dropout_costs_only_when_it_is_on() -> None:
    x = zeros(1, 1, 4, 8)
    plain = flops(lambda x: F.scaled_dot_product_attention(x, x, x), x)
    assert flops(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), x) == plain + 2 * 16


def test_grouped_queries_share_keys() -> None:
    q, k = zeros(2, 6, 4, 8), zeros(2, 2, 5, 8)
    found = macs(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)
    assert found == 2 * 6 * 4 * 5 * 16


def test_other_ranks_and_broadcast_batches() -> None:
    attention = F.scaled_dot_product_attention
    assert macs(lambda q, k: attention(q, k, k), zeros(3, 4, 8), zeros(3, 5, 8)) == 3 * 20 * 16
    assert macs(lambda q, k: attention(q, k, k), zeros(1, 3, 4, 8), zeros(2, 3, 5, 8)) == 2 * 3 * 20 * 16


def expected_mha(batch: int, length: int, keys: int, width: int, kdim: int, vdim: int) -> int:
    projections = length * width * width + keys * kdim * width + keys * vdim * width + length * width * width
    return batch * (projections + length * keys * 2 * width)  # heads x (width / heads) = width


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("kdim", "vdim"), [(8, 8), (5, 7)])
def test_multihead_attention(batch_first: bool, weights: bool, kdim: int, vdim: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=vdim, batch_first=batch_first)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.attention(q, k, v, need_weights=weights)[0]
            return out

    shapes = [(2, 4, 8), (2, 5, kdim), (2, 5, vdim)]
    given = [zeros(*shape) if batch_first else zeros(*shape).transpose(0, 1) for shape in shapes]
    assert macs(Net(), *given) == expected_mha(2, 4, 5, 8, kdim, vdim)


def test_bias_rows_are_two_keys_more() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.attention(x, x, x)[0]
            return out

    # 2 sequences of 4: four projections of 8 x 8, 4 x (4 + 2) scores and as many weighted values
    assert macs(Net(), zeros(4, 2, 8)) == 2 * (4 * 4 * 64 + 4 * 6 * 2 * 8)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_and_its_fused_kernel(norm_first: bool, activation: str) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first, activation=activation).eval()
    x = zeros(2, 5, 16)
    tokens, scores = 10, 2 * 2 * 25
    products = tokens * 4 * 256 + scores * 2 * 8 + tokens * 2 * 16 * 32
    beside = (
        tokens * 4 * 16  # biases of the projections
        + scores * (SCALE + SOFTMAX)
        + tokens * (32 + 16)  # biases of the feed-forward part
        + tokens * 32 * (5 if activation == "gelu" else 1)
        + 2 * tokens * 16 * 7  # layer norms
        + 2 * tokens * 16  # residuals
    )
    found = both(layer, x)
    assert (found.macs, found.flops - 2 * found.macs) == (products, beside)
    attention, feed_forward = layer.self_attn, (layer.linear1, layer.linear2)
    weights = [attention.in_proj_weight.detach(), attention.in_proj_bias.detach()]
    for part in (attention.out_proj, layer.norm1, layer.norm2, *feed_forward):
        weights += [part.weight.detach(), part.bias.detach()]

    def fused(x: torch.Tensor) -> torch.Tensor:
        one, two, three = weights[:4], weights[4:8], weights[8:]
        return torch._transformer_encoder_layer_fwd(
            x, 16, 2, *one, activation == "gelu", norm_first, 1e-5, *two, *three
        )  # fmt: skip

    whole = really(fused, x)
    assert (whole.macs, whole.flops - 2 * whole.macs) == (products, beside)


def test_fused_multihead_kernel() -> None:
    layer = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    ours = (layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias)
    given = [parameter.detach() for parameter in ours]
    call = only(
        really(lambda x: torch._native_multi_head_attention(x, x, x, 16, 2, *given), zeros(2, 5, 16)),
        "aten._native_multi_head_attention",
    )
    assert call.macs == 2 * (5 * 4 * 256 + 25 * 2 * 16)
    assert call.flops == 2 * (5 * 4 * 16 + 2 * 25 * (SCALE + SOFTMAX))


def test_transformer() -> None:
    # encoder: 5 tokens; decoder: 4 tokens that also look at the 5; one layer each, width 16, feed-forward 32
    encoder = 5 * 4 * 256 + 25 * 32 + 5 * 2 * 512
    itself = 4 * 4 * 256 + 16 * 32
    across = (4 + 5 + 5 + 4) * 256 + 20 * 32
    found = macs(nn.Transformer(16, 2, 1, 1, 32), zeros(5, 2, 16), zeros(4, 2, 16))
    assert found == 2 * (encoder + itself + across + 4 * 2 * 512)


@sees_higher_order
def test_flex_attention_is_dense() -> None:
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    found = really(
        lambda x: flex.flex_attention(x, x, x, score_mod=lambda s, b, h, i, j: s + i - j), zeros(1, 2, 16, 8)
    )
    assert found.macs == 2 * 16 * 16 * 16
