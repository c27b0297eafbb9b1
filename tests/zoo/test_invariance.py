"""The same integers on meta and on a real CPU run, in any grad mode, of a copy; eight times as much for eight."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from modelprobe.commands.subject import Question, build, record
from modelprobe.tracing.ledger import Trace
from modelprobe.tracing.recorder import trace

pytestmark = pytest.mark.zoo

MODELS = [
    "resnet18",
    "mobilenet_v3_small",
    "vit_b_32",
    "swin_v2_t",
    "regnet_y_400mf",
    "googlenet",
    "r3d_18",
    "lraspp_mobilenet_v3_large",
    "timm:convnext_atto",
    "timm:levit_128s",
    "timm:mixer_s32_224",
    "timm:maxvit_rmlp_pico_rw_256",
    "timm:xcit_nano_12_p16_224",
    "timm:sequencer2d_s",
    "timm:vit_tiny_patch16_224",
    "timm:efficientvit_b0",
]

ONCE_PER_CALL = {
    "swin_v2_t",  # the network that makes the position bias from a table of offsets
    "timm:maxvit_rmlp_pico_rw_256",  # the same
    "timm:xcit_nano_12_p16_224",  # the convolution that makes the position encoding
}
"""Models that do some work once for a batch of any size."""


def figures(found: Trace) -> tuple[int, int, int]:
    """What must not depend on where a model ran."""
    return found.macs, found.flops, sum(op.activations for op in found.ops)


@pytest.mark.parametrize("name", MODELS)
def test_device_copy_and_grad_mode(name: str) -> None:
    question = Question(name)
    expected = record(build(question))
    assert figures(record(build(replace(question, device="cpu")))) == figures(expected)
    model = build(question).model
    with torch.device("meta"):
        args = tuple(torch.empty(ref.shape, dtype=getattr(torch, ref.dtype)) for ref in expected.inputs)
    with torch.no_grad():
        assert figures(trace(model, *args)) == figures(expected)
    with torch.enable_grad():
        assert figures(trace(copy.deepcopy(model), *args)) == figures(expected)


@pytest.mark.parametrize("name", MODELS)
def test_batch(name: str) -> None:
    one, two, eight = (record(build(Question(name, batch=batch))) for batch in (1, 2, 8))
    per_example = two.macs - one.macs
    assert eight.macs == one.macs + 7 * per_example
    assert (per_example == one.macs) == (name not in ONCE_PER_CALL)
    assert len(eight.ops) == len(one.ops)
