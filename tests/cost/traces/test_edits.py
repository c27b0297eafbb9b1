"""Causal attention counted dense, and as a kernel that skips computes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from modelprobe.cost.traces.edits import CAUSAL_ARGUMENT, causal_scores, exactly_causal
from modelprobe.tracing.formulas import RULES
from modelprobe.tracing.recorder import trace


class Attention(nn.Module):
    def __init__(self, **how: object) -> None:
        super().__init__()
        self.how = how

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key, **self.how)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


@pytest.mark.zoo
@given(st.integers(0, 40), st.integers(0, 40))
def test_scores(queries: int, keys: int) -> None:
    assert causal_scores(queries, keys) == int(torch.ones(queries, keys).tril().sum())


@pytest.mark.parametrize("name", CAUSAL_ARGUMENT)
def test_the_flag_stands_where_the_schema_says(name: str) -> None:
    operator = getattr(torch.ops.aten, name.removeprefix("aten."), None)
    if operator is None:
        pytest.skip(f"this torch has no {name}")
    arguments = operator.default._schema.arguments
    assert arguments[CAUSAL_ARGUMENT[name]].name == "is_causal"
    assert RULES[name.replace(".", "::")].kind == "attention"


def test_causal_by_hand() -> None:
    found = trace(Attention(is_causal=True), ones(2, 3, 4, 8), ones(2, 3, 4, 8))
    # 2 x 3 heads x 4 x 4 scores x (8 + 8)
    assert found.macs == 6 * 16 * 16
    exact = exactly_causal(found)
    # 1 + 2 + 3 + 4 = 10 scores a head
    assert exact.macs == 6 * 10 * 16
    # 1 scaling and 5 for the softmax of each score
    assert exact.flops == 2 * exact.macs + 6 * 10 * 6
    assert ": 1 call, 576 MACs fewer" in exact.notes[-1].text
    assert exact.env["causal"] == "exact"


def test_fewer_keys_than_queries() -> None:
    exact = exactly_causal(trace(Attention(is_causal=True), ones(1, 1, 5, 2), ones(1, 1, 3, 2)))
    # 1 + 2 + 3 + 3 + 3 = 12 scores x (2 + 2)
    assert exact.macs == 12 * 4


def test_masks_and_open_attention_stay_dense() -> None:
    query = ones(1, 1, 4, 8)
    for model in (Attention(), Attention(attn_mask=torch.zeros(4, 4))):
        found = trace(model, query, query)
        exact = exactly_causal(found)
        assert exact.macs == found.macs == 16 * 16
        assert "changes nothing" in exact.notes[-1].text


def test_decoder_layer_of_torch() -> None:
    layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    found = trace(layer, ones(1, 6, 16), ones(1, 9, 16), kwargs={"tgt_mask": mask, "tgt_is_causal": True})
    attention = [op.macs for op in exactly_causal(found).ops if op.kind == "attention"]
    # two heads of width 8: 21 of 36 scores in the first, all of 6 x 9 in the second
    assert attention == [2 * 21 * 16, 2 * 54 * 16]
