"""What is run, and how: `--call`, `--mode`, `--redirect-device`, `--ignore`, `--seed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command_line import CommandLine

NET = """
import random
import torch
from torch import nn

class Auto(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(8, 4), nn.Linear(4, 8)
    def encode(self, x):
        return self.enc(x)
    def again(self, x):
        return self(self(x))
    def forward(self, x):
        return self.dec(self.encode(x))

class OnCuda(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 4).cuda(), nn.Linear(4, 8, device="cuda:0")
    def forward(self, x):
        return self.b(self.a(x.cuda()).to(torch.device("cuda"))) + torch.zeros(8, device="cuda")

class NoForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
    def score(self, x):
        return self.fc(x)

class Dice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
    def forward(self, x):
        for _ in range(random.randint(1, 1000)):
            x = self.fc(x)
        return x

class HidesModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.modules = nn.Linear(4, 4), [1, 2]
    def forward(self, x):
        return self.fc(x)

class HidesParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.parameters = nn.Linear(4, 4), {"lr": 1}
    def forward(self, x):
        return self.fc(x)

class Child(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.parent, self.fc = parent, nn.Linear(4, 4)
    def forward(self, x):
        return self.fc(x)

class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.child = Child(self)
    def forward(self, x):
        return self.child(x)

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.p, self.b = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8)
    def forward(self, x):
        return self.b(self.p(self.c(x)))
"""


@pytest.fixture
def cli(capsys, monkeypatch) -> CommandLine:
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    return CommandLine(capsys)


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return str(tmp_path / "net.py")


def flops(cli: Any, *command: str) -> dict[str, Any]:
    found = cli("flops", *command, "-f", "json")
    assert found.code == 0, found.err
    answer: dict[str, Any] = json.loads(found.out)
    return answer


@pytest.mark.parametrize(("method", "macs"), [("forward", 128), ("encode", 64), ("again", 256)])
def test_a_method_other_than_forward(cli, net, method, macs) -> None:
    assert flops(cli, f"{net}:Auto", "--input", "x=2x8", "--call", method)["macs"] == macs


def test_a_module_without_a_forward_names_the_option_that_works(cli, net) -> None:
    found = cli("flops", f"{net}:NoForward", "--input", "x=2x3")
    assert found.code == 4
    assert "--call METHOD" in found.err
    assert flops(cli, f"{net}:NoForward", "--input", "x=2x3", "--call", "score")["macs"] == 18


def test_a_method_that_is_none(cli, net) -> None:
    found = cli("flops", f"{net}:Auto", "--call", "decode")
    assert (found.code, found.err.count("\n")) == (2, 2)
    assert "it has: forward, again, encode" in found.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to find")
@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_a_model_that_says_cuda(cli, net, device) -> None:
    refused = cli("flops", f"{net}:OnCuda", "--input", "x=2x8", *device)
    assert refused.code == 4
    assert "--redirect-device" in refused.err
    assert flops(cli, f"{net}:OnCuda", "--input", "x=2x8", "--redirect-device", "--strict", *device)["macs"] == 128


def test_modules_that_are_left_out(cli) -> None:
    whole, without = flops(cli, "resnet18"), flops(cli, "resnet18", "--ignore", "layer4,fc", "--strict")
    rows = {row["name"]: row for row in flops(cli, "resnet18", "--depth", "1")["rows"]}
    for figure in ("macs", "parameters"):
        assert without[figure] == whole[figure] - rows["layer4"][figure] - rows["fc"][figure]
    assert "layer4" not in {row["name"] for row in without["rows"]}
    assert cli("flops", "resnet18", "--ignore", "lyer4").code == 2


def test_the_seed_is_the_random_numbers(cli, net) -> None:
    command = (f"{net}:Dice", "--input", "x=1x3")
    one, two = (flops(cli, *command, "--seed", seed)["macs"] for seed in "12")
    assert one != two
    assert flops(cli, *command, "--seed", "1")["macs"] == one


def test_training_mode_and_a_batch_of_one(cli, net) -> None:
    plain = flops(cli, "resnet18")
    training = flops(cli, "resnet18", "--mode", "train")
    assert training["macs"] == plain["macs"]
    assert training["elementwise_flops"] > plain["elementwise_flops"]
    refused = cli("flops", f"{net}:Normed", "--input", "1x3x10x10", "--mode", "train")
    assert refused.code == 4
    assert "--batch 2" in refused.err
    buffers = cli("buffers", f"{net}:Normed", "--input", "1x3x10x10")
    assert "--batch 2" in buffers.err


@pytest.mark.parametrize("command", ["flops", "summary", "training", "params", "buffers"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("HidesModules", "hides nn.Module's own modules()"),
        ("HidesParameters", "hides nn.Module's own parameters()"),
        ("Parent", "child.parent is the model itself"),
    ],
)
def test_what_torch_cannot_walk_is_one_sentence(cli, net, command, name, told) -> None:
    found = cli(command, f"{net}:{name}")
    assert (found.code, found.err.count("\n")) == (2, 2)
    assert told in found.err
