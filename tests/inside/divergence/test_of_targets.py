"""`diverge` of targets: whose weights, and on which device; a GPU is needed for all but the refusals of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelprobe.cli.app import main
from modelprobe.inside.divergence.of_targets import diverge_targets
from modelprobe.model.build import TargetRequest

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

FAULTY = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 8)

    def forward(self, x):
        x = self.norm(self.a(x))
        x = F.gelu(x, approximate="tanh" if x.is_cuda else "none")
        return self.b(x.mean((2, 3)))
"""


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["diverge", "resnet18", "resnet18", "--device-b", "cuda"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --device cuda cannot be used")
    assert "hint: here are" in error


@needs_cuda
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t", "timm:convnext_atto", "mobilenet_v3_small"])
def test_the_cpu_and_a_gpu_agree(name: str, train: bool) -> None:
    side = "224" if name.startswith("vit") else "64"
    request = TargetRequest(name, inputs=(side,))
    found = diverge_targets(request, request, train=train, devices=("cpu", "cuda"))
    assert found.verdict == "equal", found.culprit
    assert found.compared > 10


@needs_cuda
def test_what_a_model_does_on_one_device_alone_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FAULTY)
    request = TargetRequest(f"{tmp_path}/net.py:Net", inputs=("32",))
    found = diverge_targets(request, request, devices=("cpu", "cuda"))
    assert found.culprit is not None
    assert found.culprit.operator == "aten.gelu"


FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.a(x).relu())

class Changed(Net):
    def __init__(self):
        super().__init__()
        self.b.weight.data[1] += 0.5

def loaded(seed):
    net, generator = Net(), torch.Generator().manual_seed(seed)
    for value in net.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator))
    return net

def one():
    return loaded(1)

def other():
    return loaded(2)
"""


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("a", "b", "where"), [("one", "other", "a"), ("one", "one", None), ("Net", "Changed", "b"), ("Net", "Net", None)]
)
def test_a_factory_keeps_the_weights_that_it_makes(a: str, b: str, where: str | None, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORIES)
    sides = [TargetRequest(f"{tmp_path}/net.py:{name}", inputs=("2x8",)) for name in (a, b)]
    found = diverge_targets(*sides)
    assert (found.culprit.path_b if found.culprit else None) == where
