"""A weight file as a target: which network is built for it, what is said about the fit, and that nothing is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import ROOT

COMMANDS = ("flops", "params", "buffers", "summary")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State dicts and whole models of a small network of each library."""
    folder = tmp_path_factory.mktemp("files")
    net = torchvision.models.resnet18()
    torch.save(net.state_dict(), folder / "state.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, folder / "wrapped.pth")
    torch.save(net, folder / "whole.pt")
    torch.save(torchvision.models.resnet18(num_classes=7), folder / "seven.pt")
    dilated = torchvision.models.resnet18()
    dilated.layer3[0].conv1.stride = (1, 1)
    torch.save(dilated, folder / "changed.pt")
    torch.save(timm.create_model("resnet10t", num_classes=3, in_chans=1), folder / "timm.pt")
    torch.save(nn.Sequential(nn.Linear(3, 2)), folder / "sequential.pt")
    return folder


class Trap(nn.Module):
    """A model whose unpickling leaves a trace."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.linear = nn.Linear(3, 2)

    def __reduce__(self):
        return sprung, (self.place,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def sprung(place: str) -> nn.Module:
    Path(place).write_text("it ran")
    return nn.Sequential(nn.Linear(3, 2))


def value(out: str, *keys: str) -> object:
    found = json.loads(out)
    for key in keys:
        found = found[key]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_arch_builds_the_network(command: str, files: Path, cli: CommandLine) -> None:
    answer = cli(command, str(files / "state.pth"), "--arch", "resnet18")
    assert answer.code == 0
    assert "All 122 tensors of" in " ".join(answer.out.split())
    assert "fit resnet18 by name and shape" in " ".join(answer.out.split())


def test_the_figures_are_those_of_the_network(files: Path, cli: CommandLine) -> None:
    direct = json.loads(cli("flops", "resnet18", "-f", "json").out)
    through = json.loads(cli("flops", str(files / "state.pth"), "--arch", "resnet18", "-f", "json").out)
    assert through["env"].pop("weights") == str(files / "state.pth")
    assert through["env"].pop("target") == str(files / "state.pth")
    direct["env"].pop("target")
    for answer in (direct, through):
        answer.pop("notes", None)
        answer.get("data", answer).pop("notes", None)
    assert through == direct


def test_a_fit_after_repair_and_none(files: Path, cli: CommandLine) -> None:
    repaired = " ".join(cli("params", str(files / "wrapped.pth"), "--arch", "resnet18").out.split())
    assert "fit resnet18 once they are repaired" in repaired
    wrong = cli("params", str(files / "wrapped.pth"), "--arch", "resnet50", "--strict")
    assert wrong.code == 3
    text = " ".join(wrong.out.split())
    assert "do not fit resnet50" in text
    assert "modelprobe keys" in text


def test_arch_of_the_users_own_file(files: Path, cli: CommandLine, tmp_path: Path) -> None:
    answer = cli("params", str(files / "state.pth"), "--arch", f"{SAMPLES}:TinyCNN")
    assert answer.code == 0
    assert "do not fit" in " ".join(answer.out.split())
    assert ROOT.exists()


@pytest.mark.zoo
@pytest.mark.parametrize("command", ["flops", "params", "buffers"])
def test_tensors_alone_ask_for_arch(command: str, files: Path, cli: CommandLine) -> None:
    answer = cli(command, str(files / "state.pth"))
    assert answer.code == 2
    assert "holds tensors, not a network | --arch torchvision:resnet18 is likely, or as well " in said(answer)
    assert "timm:resnetblur18" in answer.err  # of other costs, which is why it is asked


@pytest.mark.zoo
def test_tensors_alone_are_identified_when_that_is_certain(files: Path, cli: CommandLine, tmp_path: Path) -> None:
    """Names and shapes leave resnet18 and resnetblur18, which costs more; the file's name tells."""
    named = tmp_path / "resnet18-f37072fd.pth"
    named.write_bytes((files / "state.pth").read_bytes())
    answer = cli("flops", str(named), "--depth", "0")
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert "is torchvision:resnet18 by the names and shapes in it, and by what the file calls itself" in text
    assert "1,814,073,344" in text


def test_summary_without_arch_lists_the_file(files: Path, cli: CommandLine) -> None:
    assert "torch zip" in cli("summary", str(files / "state.pth")).out


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("whole.pt", "torchvision:resnet18 was built"),
        ("seven.pt", "torchvision:resnet18, num_classes=7 was built"),
        ("timm.pt", "timm:resnet10t, num_classes=3, in_chans=1 was built"),
    ],
)
def test_whole_models_of_the_zoos_are_built_anew(name: str, built: str, files: Path, cli: CommandLine) -> None:
    answer = cli("params", str(files / name))
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert built in text
    assert "Nothing in the file was run" in text


@pytest.mark.zoo
def test_a_changed_attribute_is_another_model(files: Path, cli: CommandLine) -> None:
    """A stride is in no shape: only the attributes in the file tell."""
    answer = cli("flops", str(files / "changed.pt"))
    assert answer.code == 5
    text = said(answer)
    assert "no torchvision.models.resnet.ResNet that torchvision builds" in text
    assert "--unsafe-load" in text


def test_other_whole_models_are_refused(files: Path, cli: CommandLine) -> None:
    answer = cli("flops", str(files / "sequential.pt"))
    assert answer.code == 5
    assert "its code would be run" in said(answer)
    assert "--unsafe-load" in answer.err


def test_unsafe_load_alone_runs_code(tmp_path: Path, cli: CommandLine) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": Trap(str(trace))}, tmp_path / "trap.pt")
    for arguments in ([], ["--arch", "resnet18"], ["--arch", "nowhere"], ["--strict"]):
        assert cli("params", str(tmp_path / "trap.pt"), *arguments).code != 0
        assert not trace.exists(), arguments
    answer = cli("params", str(tmp_path / "trap.pt"), "--unsafe-load")
    assert answer.code == 0
    assert trace.exists()
    assert "The code in" in answer.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["resnet18", "--arch", "resnet18"], "--arch is for weight files, and resnet18 is none"),
        (["resnet18", "--unsafe-load"], "--unsafe-load is for weight files"),
        (["{}/state.pth", "--arch", "{}/state.pth"], "is a weight file, not a network"),
        (["{}/state.pth", "--arch", "resnet18x"], "no model of torchvision or timm is called"),
        (["{}/state.pth", "--unsafe-load"], "holds no whole model"),
        (["{}/state.pth", "--unsafe-load", "--arch", "resnet18"], "--arch builds the network itself"),
        (["{}/missing.pth", "--arch", "resnet18"], "cannot read"),
        (["{}/missing.pth", "--unsafe-load"], "there is no file"),
        (["{}/whole.pt", "--set", "num_classes=3"], "--set needs a network that is named"),
    ],
)
def test_what_is_refused(arguments: list[str], expected: str, files: Path, cli: CommandLine) -> None:
    answer = cli("params", *(part.format(files) for part in arguments))
    assert answer.code == 2
    assert expected in said(answer)


def test_a_damaged_file(tmp_path: Path, cli: CommandLine) -> None:
    (tmp_path / "cut.pth").write_bytes(b"PK\3\4")
    for arguments in ([], ["--arch", "resnet18"], ["--unsafe-load"]):
        answer = cli("params", str(tmp_path / "cut.pth"), *arguments)
        assert answer.code in (2, 4)
        said(answer)
    assert os.listdir(tmp_path) == ["cut.pth"]  # noqa: PTH208
