"""The first operator where two runs part: faults are named, equal pairs are equal, and memory stays small."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import modelprobe
from modelprobe.errors import BadInput
from modelprobe.inside.divergence.find import diverge
from modelprobe.inside.divergence.watched_run import RunSide
from tests.inside.divergence.architectures import network
from tests.inside.divergence.equal_pairs import Extra, channels_last, functional, plain_attention
from tests.inside.divergence.faults import KINDS, faulty
from tests.inside.divergence.figures import equal_pairs, faults_found, verdict


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unet", "eps"), ("unet", "padding"), ("encoder", "mis-scaled weight"), ("vit", "tanh GELU"),
        ("timm:test_vit", "swapped heads"), ("decoder with sdpa", "mask off by one"),
        ("decoder with a buffer", "mask off by one"), ("decoder with a mask made", "mask off by one"),
        ("timm:test_vit", "transposed weight"), ("waves", "cast"), ("unet", "momentum"), ("waves", "stride"),
        ("timm:test_convnext", "missing bias"),
    ],
)  # fmt: skip
def test_a_fault_is_named(name: str, kind: str) -> None:
    model, x = network(name, 3)
    made = faulty(model, kind, 3)
    assert made is not None
    twin, fault = made
    assert verdict(RunSide(model, (x,), train=fault.train), RunSide(twin, (x,), train=fault.train), fault) == ""


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["decoder with sdpa", "unet", "timm:test_vit", "timm:test_efficientnet"])
def test_equal_pairs_are_equal(name: str) -> None:
    model, x = network(name, 5)
    twins = [functional(model, 0), functional(model, 1), plain_attention(model), channels_last(model), Extra(model)]
    for twin in twins:
        if twin is not None:
            assert diverge(RunSide(model, (x,)), RunSide(twin, (x,))).verdict == "equal"


@pytest.mark.slow
def test_faults_figure() -> None:
    score = faults_found(500, seed=1)
    assert len(score.wrong) <= 10, score.wrong  # 98 %
    assert set(score.kinds) == set(KINDS)


@pytest.mark.slow
def test_equal_figure() -> None:
    assert equal_pairs(200, seed=1).wrong == []


def test_an_inherited_error_is_not_an_operators_own() -> None:
    model, x = network("unet", 0)
    twin = copy.deepcopy(model)
    twin.down1[1].eps, twin.join1[0].bias = 1e-2, nn.Parameter(model.join1[0].bias + 1)
    found = modelprobe.find_divergence(model, twin, x)
    assert found.verdict == "diverges"
    assert found.culprit is not None
    assert (found.culprit.path_a, found.culprit.path_b, found.culprit.operator) == (
        "down1.1", "down1.1", "aten.batch_norm",
    )  # fmt: skip
    # Everything behind the first is different as well; only one other operator is to blame.
    assert [other.path_b for other in found.others] == ["join1.0"]
    assert [row.name for row in found.culprit.arguments if row.differs] == ["eps"]


@pytest.mark.zoo
def test_training_is_compared_too() -> None:
    model, x = network("waves", 0)
    twin = copy.deepcopy(model)
    assert diverge(RunSide(model, (x,), train=True), RunSide(twin, (x,), train=True)).verdict == "equal"

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *grads: Tensor) -> Tensor:
            return grads[0] * 2

    class WrongGradient(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Doubled.apply(x)

    twin.body = nn.Sequential(*twin.body[:3], WrongGradient(), *twin.body[3:])
    assert diverge(RunSide(model, (x,)), RunSide(twin, (x,))).verdict == "equal"
    found = diverge(RunSide(model, (x,), train=True), RunSide(twin, (x,), train=True)).culprit
    assert found is not None
    assert found.backward
    assert found.operator == "aten.mul"


def test_recurrent_layers() -> None:
    """mkldnn's kernel for training puts out bytes of its own, which differ from run to run."""
    model = nn.LSTM(8, 16, batch_first=True)
    twin, x = copy.deepcopy(model), torch.randn(2, 5, 8)
    assert modelprobe.find_divergence(model, twin, x, train=True).verdict == "equal"
    with torch.no_grad():
        twin.weight_hh_l0[0, 0] += 1
    found = modelprobe.find_divergence(model, twin, x).culprit
    assert found is not None
    assert [row.a for row in found.arguments if row.differs] == ["weight_hh_l0 (64x16 float32)"]


@pytest.mark.zoo
def test_models_are_left_as_they_were() -> None:
    model, x = network("unet", 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modelprobe.find_divergence(model, copy.deepcopy(model), x, train=True)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_in_common() -> None:
    with pytest.raises(BadInput, match="no operator in common"):
        modelprobe.find_divergence(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.ReLU()), torch.ones(2, 4))


class Raises(nn.Module):
    """A step of its own, then an error."""

    def __init__(self, inner: nn.Module, late: bool) -> None:
        super().__init__()
        self.inner, self.late = inner, late

    def forward(self, x: Tensor) -> Tensor:
        if not self.late:
            raise RuntimeError("wrong size")
        self.inner(x)
        raise RuntimeError("behind the last layer")


def test_one_side_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    found = modelprobe.find_divergence(model, Raises(model, late=True), torch.ones(2, 4))
    assert found.verdict == "diverges"
    assert found.compared == 2  # equal until there
    assert found.culprit is not None
    assert "behind the last layer" in found.culprit.reason
    with pytest.raises(BadInput, match="does not take the inputs"):
        modelprobe.find_divergence(model, Raises(model, late=False), torch.ones(2, 4))
    with pytest.raises(BadInput, match="both sides raise"):
        modelprobe.find_divergence(model, model, torch.ones(2, 5))


def test_a_count_of_outputs_differs() -> None:
    class Pair(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out = self.inner(x)
            return out, out

    model = nn.Sequential(nn.Linear(4, 4))
    found = modelprobe.find_divergence(model, Pair(model), torch.ones(2, 4)).culprit
    assert found is not None
    assert found.reason == "A has 1 outputs, B has 2"


MEASURED = """
import resource, sys, torch
from torch import nn
from modelprobe import find_divergence
class Chain(nn.Module):
    # Forty outputs of 32 MiB, of which two are alive at a time.
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.PReLU() for _ in range(40))
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
model = Chain()
find_divergence(model, model, torch.randn(8))
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.randn(8 << 20)
if sys.argv[1] == "forward":
    with torch.inference_mode():
        model(x)
else:
    assert find_divergence(model, model, x).verdict == "equal"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


@pytest.mark.slow
def test_memory_stays_at_about_one_forward() -> None:
    """The outputs together take thirteen times what a forward needs (the input and two of them, 96 MiB)."""

    def peak(what: str) -> int:
        done = subprocess.run([sys.executable, "-c", MEASURED, what], capture_output=True, text=True, check=True)
        return int(done.stdout)

    forward, both = peak("forward"), peak("diverge")
    print(f"{forward:,} KiB forward, {both:,} KiB both")
    assert both <= 1.3 * forward + 32 * 1024  # a copy of the input: a model may write to what it is given


class Centred(nn.Module):
    """Its second norm gets values whose means are zero but for rounding."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(16, affine=False), nn.BatchNorm2d(16)
        self.inner, self.last = nn.Conv2d(16, 16, 1, bias=False), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.first(x))
        return self.second(x.contiguous(memory_format=torch.channels_last) if self.last else x)


def test_means_around_zero_are_no_alarm() -> None:
    a, b = Centred(False), Centred(True)
    b.load_state_dict(a.state_dict())
    x = torch.randn(8, 16, 33, 33)
    assert diverge(RunSide(a, (x,), train=True), RunSide(b, (x,), train=True)).verdict == "equal"
