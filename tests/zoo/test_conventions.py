"""Every convention against its live tool, to the integer, on small models of different families, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from modelprobe.cost.conventions import CONVENTIONS, count, find_convention
from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.model.inputs.example import make_inputs
from modelprobe.tracing.records import Trace
from tests.sampling import sampled
from tests.zoo.live_tools import INSTALLED, ask, fvcore_activations

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.zoo

MODELS = """
    torchvision:alexnet torchvision:resnet18 torchvision:resnext50_32x4d torchvision:squeezenet1_1
    torchvision:densenet121 torchvision:googlenet torchvision:mobilenet_v2 torchvision:mobilenet_v3_small
    torchvision:mnasnet0_5 torchvision:shufflenet_v2_x0_5 torchvision:efficientnet_b0 torchvision:regnet_x_400mf
    torchvision:regnet_y_400mf torchvision:swin_t torchvision:swin_v2_t torchvision:vit_b_32
    torchvision:convnext_tiny torchvision:lraspp_mobilenet_v3_large torchvision:r3d_18 torchvision:s3d
    torchvision:swin3d_t timm:botnet26t_256 timm:cait_xxs24_224 timm:coat_tiny timm:coatnet_nano_rw_224
    timm:convit_tiny timm:convnext_atto timm:crossvit_tiny_240 timm:cspresnet50 timm:davit_tiny
    timm:deit_tiny_patch16_224 timm:dla34 timm:edgenext_xx_small timm:efficientformer_l1 timm:efficientvit_b0
    timm:eva02_tiny_patch14_224 timm:fastvit_t8 timm:focalnet_tiny_srf timm:gcresnet33ts timm:gcvit_xxtiny
    timm:ghostnet_100 timm:gmlp_ti16_224 timm:halonet26t timm:hgnetv2_b0 timm:hrnet_w18_small timm:lambda_resnet26t
    timm:levit_128s timm:mambaout_femto timm:maxvit_pico_rw_256 timm:mixer_s32_224 timm:mobilevit_xxs
    timm:mvitv2_tiny timm:nf_resnet26 timm:nest_tiny timm:pit_ti_224 timm:poolformer_s12 timm:pvt_v2_b0
    timm:repvit_m0_9 timm:resmlp_12_224 timm:resnetv2_50 timm:resnest14d timm:rexnet_100 timm:selecsls42
    timm:sequencer2d_s timm:skresnet18 timm:starnet_s1 timm:swiftformer_xs timm:tiny_vit_5m_224
    timm:tnt_s_legacy_patch16_224 timm:twins_svt_small timm:visformer_tiny timm:volo_d1_224
    timm:xcit_nano_12_p16_224 timm:vit_tiny_patch16_224 timm:xception41
""".split()

SIZES = {
    "torchvision:r3d_18": "1x3x4x56x56",
    "torchvision:swin3d_t": "1x3x4x64x64",
    "torchvision:lraspp_mobilenet_v3_large": "128",
}
"""Smaller inputs than these models declare: a real run of a video takes seconds."""


@contextmanager
def attention(fused: bool) -> Iterator[None]:
    """timm's published figures, which the fvcore convention follows, are of models built with fused attention off."""
    timm.layers.set_fused_attn(fused)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(True)


def request(name: str, device: str | None = None) -> TargetRequest:
    return TargetRequest(name, inputs=(SIZES[name],) if name in SIZES else (), device=device)


@functools.lru_cache(maxsize=1)
def recorded(name: str) -> Trace:
    """The ledger, functions included; on meta, although the tools run on the CPU."""
    return record(load_model(request(name)), functions=True)


@functools.lru_cache(maxsize=2)
def real(name: str, fused: bool) -> tuple[nn.Module, Tensor]:
    """The model and its input on the CPU."""
    asked = request(name, "cpu")
    with attention(fused):
        loaded = load_model(asked)
    args, _ = make_inputs(loaded.target, asked.inputs, model=loaded.model).build("cpu")
    return loaded.model, args[0]


# The upper list varies faster: every tool is asked about one model before the next is built.
@pytest.mark.parametrize("tool", [name for name in INSTALLED if name in CONVENTIONS])
@pytest.mark.parametrize("name", sampled(MODELS, 6))
def test_equals_the_tool(name: str, tool: str) -> None:
    model, x = real(name, tool != "fvcore" or name.startswith("torchvision:"))
    # Before 2.15 torch's counter has no formula for the CPU's fused attention: what it says depends on the release.
    found = find_convention(tool).predict(recorded(name)) if tool == "torch" else count(recorded(name), tool)
    assert found.total == ask(tool, model, x)
    if tool == "fvcore":
        assert found.activations == fvcore_activations(model, x)


def test_the_model_and_torch_are_left_alone() -> None:
    model, x = real("torchvision:resnet18", True)
    keys = set(model.state_dict())
    for tool in INSTALLED:
        ask(tool, model, x)
    assert set(model.state_dict()) == keys
    assert torch.is_grad_enabled()
