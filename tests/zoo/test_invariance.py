"""The same integers on every torch, on meta and on a real device, in any grad mode; 8 times as much for 8 examples."""

from __future__ import annotations

import copy

import pytest
import torch

from modelprobe.cost.training import training_cost
from modelprobe.cost.training_step import record_training_step
from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace

pytestmark = pytest.mark.zoo

EXPECTED = {
    "resnet18": (1_814_073_344, 3_637_806_568),
    "mobilenet_v3_small": (56_510_400, 120_979_392),
    "vit_b_32": (4_409_186_304, 8_841_614_440),
    "swin_v2_t": (5_939_690_496, 12_015_342_844),
    "regnet_y_400mf": (401_842_848, 817_403_200),
    "googlenet": (1_498_376_192, 3_017_617_976),
    "r3d_18": (40_696_553_472, 81_464_608_144),
    "lraspp_mobilenet_v3_large": (2_086_219_688, 4_365_217_663),
    "timm:convnext_atto": (547_332_480, 1_118_188_200),
    "timm:levit_128s": (304_660_832, 619_039_166),
    "timm:mixer_s32_224": (1_002_426_368, 2_019_800_552),
    "timm:maxvit_rmlp_pico_rw_256": (1_817_198_592, 3_765_437_388),
    "timm:xcit_nano_12_p16_224": (550_952_448, 1_126_963_972),
    "timm:sequencer2d_s": (8_334_007_296, 16_812_030_952),
    "timm:vit_tiny_patch16_224": (1_253_683_200, 2_536_515_328),
    "timm:efficientvit_b0": (100_233_216, 215_878_984),
}
"""MACs and FLOPs, the same on every torch from 2.6 on: CI runs this file on the oldest and on the newest."""

MODELS = list(EXPECTED)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

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
    request = TargetRequest(name)
    expected = record(load_model(request))
    assert (expected.macs, expected.flops) == EXPECTED[name]
    for device in DEVICES:
        assert figures(record(load_model(TargetRequest(name, device=device)))) == figures(expected)
    model = load_model(request).model
    with torch.device("meta"):
        args = tuple(torch.empty(ref.shape, dtype=getattr(torch, ref.dtype)) for ref in expected.inputs)
    with torch.no_grad():
        assert figures(trace(model, *args)) == figures(expected)
    with torch.enable_grad():
        assert figures(trace(copy.deepcopy(model), *args)) == figures(expected)


@pytest.mark.parametrize("name", MODELS)
def test_batch(name: str) -> None:
    one, two, eight = (record(load_model(TargetRequest(name, batch=batch))) for batch in (1, 2, 8))
    per_example = two.macs - one.macs
    assert eight.macs == one.macs + 7 * per_example
    assert (per_example == one.macs) == (name not in ONCE_PER_CALL)
    assert len(eight.ops) == len(one.ops)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_b_32", "swin_v2_t", "timm:convnext_atto", "timm:xcit_nano_12_p16_224"]
)
def test_training_step(name: str) -> None:
    expected, *found = (
        training_cost(record_training_step(load_model(TargetRequest(name, batch=2, device=device))))
        for device in ("meta", *DEVICES)
    )
    for result in found:
        assert (result.forward, result.backward, result.uncounted) == (expected.forward, expected.backward, ())
