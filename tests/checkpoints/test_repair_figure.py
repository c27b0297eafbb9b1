"""The figure: architectures x manglings, each repaired to equal outputs or refused; and names of the other library.

`pytest tests/checkpoints/test_repair_figure.py -m slow -s` prints the counts. Nothing is downloaded.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoints.reader import open_checkpoint
from modelprobe.errors import CheckFailed, ProbeError
from modelprobe.model.inputs import make_inputs
from modelprobe.model.proof import _flat
from modelprobe.model.target import resolve
from modelprobe.model.weights import fit, load_state_dict_for, refusals
from tests.checkpoints.mangling import MANGLINGS, naive, randomised
from tests.checkpoints.test_repair import SMALL
from tests.command_line import SAMPLES

ZOO = """
torchvision:resnet18 torchvision:squeezenet1_1 torchvision:shufflenet_v2_x0_5 torchvision:mobilenet_v2
torchvision:mobilenet_v3_small torchvision:mnasnet0_5 torchvision:efficientnet_b0 torchvision:regnet_x_400mf
torchvision:densenet121 torchvision:googlenet torchvision:swin_t torchvision:convnext_tiny
timm:test_vit timm:test_vit2 timm:test_resnet timm:test_byobnet timm:test_convnext timm:test_efficientnet
timm:resnet10t timm:mobilenetv3_small_050 timm:lcnet_050 timm:tinynet_e timm:efficientnet_lite0 timm:ghostnet_100
timm:levit_128s timm:deit_tiny_patch16_224 timm:deit_tiny_distilled_patch16_224 timm:vit_tiny_patch16_224
timm:cait_xxs24_224 timm:poolformer_s12 timm:edgenext_xx_small timm:mobilevit_xxs timm:convnext_atto timm:mixer_s32_224
timm:xcit_nano_12_p16_224
""".split()
ARCHITECTURES = [*SMALL, f"{SAMPLES}:TinyAttention", *ZOO]

PAIRS = [
    ("resnet18", "resnet18"),
    ("vgg11", "vgg11"),
    ("vgg11_bn", "vgg11_bn"),
    ("densenet121", "densenet121"),
    ("vit_b_16", "vit_base_patch16_224"),
    ("convnext_tiny", "convnext_tiny"),
    ("swin_t", "swin_tiny_patch4_window7_224"),
    ("efficientnet_b0", "efficientnet_b0"),
    ("mobilenet_v2", "mobilenetv2_100"),
    ("mobilenet_v3_small", "mobilenetv3_small_100"),
    ("regnet_y_400mf", "regnety_004"),
    ("mnasnet1_0", "mnasnet_100"),
    ("inception_v3", "inception_v3"),
]
DIFFERENT = {"mobilenet_v3_small", "regnet_y_400mf"}
"""Not the same function, or an order that does not tell: refused, both ways."""


def outputs(model, inputs):
    args, kwargs = inputs
    with torch.no_grad():
        return _flat(model(*args, **kwargs))


def example(target, model, spec: str):
    """A small picture where the network takes one, else what it declares; and what comes out."""
    if spec in SMALL:
        return ((torch.rand(SMALL[spec]),), {}), None
    for asked in (["3x64x64"], []):
        inputs = make_inputs(target, asked, model=model).build("cpu", 0) if spec in ZOO or not asked else None
        try:
            if inputs is not None:
                return inputs, outputs(model, inputs)
        except (RuntimeError, AssertionError, ValueError):
            assert asked, spec
    raise AssertionError(spec)


def one(target, model, other, inputs, expected, mangling: str, path: Path) -> str:
    torch.save(MANGLINGS[mangling](model.state_dict()), path)
    for tensor in other.state_dict().values():
        tensor.zero_()
    try:
        state, _ = load_state_dict_for(other, path, target=target)
    except CheckFailed as refused:
        return f"refused: {refused.message.partition(': ')[2]}"
    try:
        other.load_state_dict(state, strict=True)
    except RuntimeError:
        return "WRONG: it does not load"
    same = all(torch.equal(a, b) for a, b in zip(expected, outputs(other, inputs), strict=True))
    return "equal" if same else "WRONG: other outputs"


def loads(model, state) -> bool:
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("spec", ARCHITECTURES, ids=lambda spec: spec.rpartition("/")[2])
def test_architectures_by_manglings(spec, tmp_path, record_property):
    target = resolve(spec)
    model = randomised(target.build("cpu").module)
    inputs, expected = example(target, model, spec)
    expected = expected or outputs(model, inputs)
    assert all(tensor.isfinite().all() and tensor.any() for tensor in expected)
    other = target.build("cpu", seed=1).module.eval()
    found = {n: one(target, model, other, inputs, expected, n, tmp_path / "x.pth") for n in MANGLINGS}
    by_hand = sum(loads(other, naive(mangle(model.state_dict()))) for mangle in MANGLINGS.values())
    counts = Counter(answer.partition(":")[0] for answer in found.values())
    refused = {name: answer for name, answer in found.items() if answer != "equal"}
    print(f"\n{spec.rpartition('/')[2]}: {dict(counts)}; the naive repair loads {by_hand} of {len(found)}; {refused}")
    assert not counts["WRONG"]
    assert counts["equal"] >= len(MANGLINGS) - 1


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["to timm", "to torchvision"])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
def test_the_other_library(pair, back, tmp_path):
    specs = [f"torchvision:{pair[0]}", f"timm:{pair[1]}"]
    source, target = map(resolve, reversed(specs) if back else specs)
    torch.save({f"module.{n}": v for n, v in source.build("cpu").module.state_dict().items()}, tmp_path / "x.pth")
    try:
        fitted = fit(open_checkpoint(tmp_path / "x.pth"), target=target)
    except ProbeError as error:
        pytest.fail(error.message)
    reasons = refusals(fitted)
    proof = fitted.proof
    print(f"\n{source.spec} -> {target.spec}: {'refused: ' + reasons[0][0] if reasons else 'repaired'}"
          f"{f', relative difference {proof.relative:.1e}' if proof else ''}")  # fmt: skip
    assert bool(reasons) == (pair[0] in DIFFERENT)
    if not reasons and proof is not None:
        assert proof.equal
