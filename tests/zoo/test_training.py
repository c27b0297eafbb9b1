"""A training step of a small architecture of every timm family and of every torchvision classifier: nothing uncounted.

What is true of every network made of contractions: each of them has as many gradients of the same cost as it has
operands that want one. So a backward pass has as many MACs as the forward at least, and twice as many at most.
"""

from __future__ import annotations

import pytest

from modelprobe.cost.training_step import record_training_step
from modelprobe.model.build import TargetRequest, load_model
from tests.sampling import sampled

torchvision_models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.zoo

TIMM = """
    beitv2_base_patch16_224 eca_botnext26ts_256 mobileone_s0 cait_xxs36_224 coat_lite_tiny convit_tiny
    convmixer_768_32 test_convnext cpubone_nano crossvit_9_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
    deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46_c dpn48b edgenext_xx_small efficientformer_l1
    efficientformerv2_s1 tinynet_e efficientvim_m1 efficientvit_b0 efficientvit_m1 eva02_tiny_patch14_224
    fasternet_t1 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0
    hiera_tiny_224 hieradet_small hrnet_w18 iformer_t inception_next_atto inception_resnet_v2 inception_v3
    inception_v4 lcnetv2_small levit_192 lowformer_b0 mambaout_femto maxvit_rmlp_pico_rw_256 poolformer_s24
    mixer_s32_224 lcnet_050 mobilenetv5_base mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge
    nest_tiny nextvit_small nf_regnet_b0 pit_xs_distilled_224 pnasnet5large pvt_v2_b2 qwen3_vit_88m rdnet_tiny
    regnetx_004_tv repghostnet_100 repvit_m0_9 res2next50 resnest26d test_resnet resnetv2_18 rexnetr_100 selecsls42
    legacy_seresnet18 sequencer2d_s shvit_s1 skresnet34 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_v2_l twins_svt_small
    vgg11_bn visformer_tiny test_vit2 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_rpn_224 samvit_base_patch16_224
    vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_tiny_12_p16_224
""".split()


def check(name: str) -> None:
    """The step on meta: counted whole, the same forward under autograd, every parameter reached."""
    found = record_training_step(load_model(TargetRequest(name)))
    forward, backward = found.forward.macs, sum(step.op.macs for step in found.gradients)
    assert found.uncounted == ()
    assert found.forward_macs == forward
    assert forward <= backward <= 2 * forward
    assert found.unreached == ()
    assert len(found.trained) == sum(entry.role == "parameter" for entry in found.forward.tree.unique_state())
    assert 0 < sum(step.weight_macs for step in found.gradients) <= forward
    assert all(step.phase == "backward" for step in found.gradients)


@pytest.mark.parametrize("name", sampled(TIMM, 6))
def test_timm(name: str) -> None:
    check(f"timm:{name}")


@pytest.mark.parametrize("name", sampled(torchvision_models.list_models(module=torchvision_models), 6))
def test_torchvision(name: str) -> None:
    check(f"torchvision:{name}")


def test_every_family_of_timm_is_there() -> None:
    timm = pytest.importorskip("timm")
    families = [set(timm.list_models(module=module)) for module in timm.list_modules()]
    assert all(family & set(TIMM) for family in families if family)
