"""Refusals name a command that works: every command that is named is run here, and its file is loaded."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from modelprobe.checkpoint.keys.name_tree import drop_patterns
from tests.checkpoint.answers.test_convert import zero_folder
from tests.command_line import CommandLine

State = dict[str, torch.Tensor]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def commands(text: str) -> list[list[str]]:
    """The commands of the notes, as the shell takes them."""
    flat = " ".join(text.split())
    return [shlex.split(found)[1:] for found in re.findall(r"To load what fits: (modelprobe .*?) \((?:all|\d)", flat)]


def resnet() -> State:
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18().state_dict())


def headless(state: State, head: str = "fc.") -> State:
    return {name: value for name, value in state.items() if not name.startswith(head)}


def vit() -> State:
    torch.manual_seed(0)
    return dict(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).state_dict())


def moco() -> State:
    state = {f"module.encoder_q.{name}": value for name, value in headless(resnet()).items()}
    return {**state, "module.encoder_q.fc.0.weight": torch.ones(5, 5), "module.queue": torch.ones(2, 2)}


def simclr() -> State:
    state = {f"backbone.{name}": value for name, value in headless(resnet()).items()}
    return {**state, "projector.0.weight": torch.ones(4, 4), "projector.0.bias": torch.ones(4)}


def byol() -> State:
    online = {f"online_encoder.{name}": value for name, value in headless(resnet()).items()}
    target = {f"target_encoder.{name}": value for name, value in headless(resnet()).items()}
    return {**online, **target, "predictor.weight": torch.ones(3, 3)}


def mae() -> State:
    decoder = {"mask_token": torch.ones(1, 1, 4), "decoder_pos_embed": torch.ones(1, 5, 4)}
    decoder |= {"decoder_embed.weight": torch.ones(4, 192), "decoder_blocks.0.norm1.weight": torch.ones(4)}
    return {**vit(), **decoder}


def segmentation() -> State:
    state = {f"encoder.{name}": value for name, value in headless(resnet()).items()}
    return {**state, "decoder.0.weight": torch.ones(2, 2), "segmentation_head.0.bias": torch.ones(2)}


CASES = {
    "MoCo": (moco, ["resnet18"], headless),
    "SimCLR": (simclr, ["resnet18"], headless),
    "BYOL": (byol, ["timm:resnet18"], headless),
    "MAE": (mae, ["timm:vit_tiny_patch16_224", "--set", "img_size=32"], lambda state: headless(state, "head.")),
    "segmentation": (segmentation, ["resnet18"], headless),
    "a backbone as it is": (lambda: headless(resnet()), ["resnet18"], headless),
    "a backbone for timm": (lambda: headless(resnet()), ["timm:resnet18"], headless),
    "a head of other classes": (
        lambda: {**resnet(), "fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}, ["resnet18"], headless,
    ),
    "head.fc": (
        lambda: headless(dict(timm.create_model("convnext_atto").state_dict()), "head.fc."), ["timm:convnext_atto"],
        lambda state: headless(state, "head."),
    ),
}  # fmt: skip


def built(arguments: list[str]) -> nn.Module:
    name = arguments[arguments.index("--arch") + 1]
    settings = [arguments[at + 1] for at, word in enumerate(arguments) if word == "--set"]
    given = {key: int(value) for key, value in (setting.split("=") for setting in settings)}
    if name.startswith("timm:"):
        return timm.create_model(name[5:], **given)
    return torchvision.models.get_model(name, **given)


@pytest.mark.parametrize("case", [c if c == "head.fc" else pytest.param(c, marks=pytest.mark.zoo) for c in CASES])
def test_the_commands_work(cli: CommandLine, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, arch, wanted = CASES[case]
    state = make()
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state}, "in.pth")
    answer = cli("keys", "in.pth", "--arch", *arch)
    assert answer.code == 1
    named = commands(answer.out)
    assert named
    assert shlex.join(named[0]) in " ".join(answer.err.split())
    for command in named:
        again = cli(*command)
        assert again.code == 0, again.err
        if command[0] == "repair":
            out = command[command.index("-o") + 1]
            model = built(command)
            loaded = torch.load(out, weights_only=True)["state_dict"]
            lacks = model.load_state_dict(loaded, strict=False)
            assert not lacks.unexpected_keys
            assert len(lacks.missing_keys) <= 4
            Path(out).unlink()
            kept = wanted(dict(model.state_dict()))
            source = {name.rpartition(".")[0]: 0 for name in kept}
            assert source
            for name in kept:
                value = next(value for key, value in state.items() if key == name or key.endswith(f".{name}"))
                assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.zoo
def test_the_options_that_were_given_are_kept(cli: CommandLine, tmp_path: Path) -> None:
    torch.save({"first": {"epoch": 1}, "second": {f"net.{name}": v for name, v in moco().items()}}, tmp_path / "in.pth")
    given = ["--arch", "timm:resnet18", "--set", "in_chans=3", "--branch", "second", "--drop", "net.module.queue"]
    answer = cli("repair", str(tmp_path / "in.pth"), *given, "-o", str(tmp_path / "out.safetensors"))
    assert answer.code == 1
    hint = answer.err.split("hint: ")[1]
    command = shlex.split(hint.partition(" works: ")[0])[1:]
    for option, value in (("--set", "in_chans=3"), ("--branch", "second"), ("--drop", "net.module.queue"),
                          ("-o", str(tmp_path / "out.safetensors"))):  # fmt: skip
        assert any(pair == (option, value) for pair in pairwise(command)), option
    assert cli(*command).code == 0


def test_no_command_where_half_of_the_network_is_missing(cli: CommandLine, tmp_path: Path) -> None:
    state = {name: value for name, value in resnet().items() if not name.startswith(("layer3", "layer4"))}
    torch.save(state, tmp_path / "in.pth")
    answer = cli("keys", str(tmp_path / "in.pth"), "--arch", "resnet18")
    assert answer.code == 1
    assert "To load what fits" not in answer.out


def test_drop_leaves_nothing_to_ask_for(cli: CommandLine, tmp_path: Path) -> None:
    torch.save(headless(resnet()), tmp_path / "in.pth")
    answer = cli("keys", str(tmp_path / "in.pth"), "--arch", "resnet18", "--drop", "fc.*")
    assert answer.code == 0
    assert "strict=False: 2 tensors not asked for" in answer.out


@pytest.mark.parametrize("command", ["keys", "convert"])
def test_placeholders_of_zero_3(cli: CommandLine, tmp_path: Path, command: str) -> None:
    state = {name: torch.empty(0) if value.is_floating_point() else value for name, value in resnet().items()}
    torch.save({"module": state, "ds_version": "0.9"}, tmp_path / "in.pt")
    more = ["--arch", "resnet18"] if command == "keys" else ["-o", str(tmp_path / "out.pt")]
    answer = cli(command, str(tmp_path / "in.pt"), *more)
    assert answer.code in (1, 2)
    assert "modelprobe convert DIRECTORY -o model.safetensors" in answer.err
    assert "classes" not in answer.out + answer.err
    assert not (tmp_path / "out.pt").exists()
    assert "parameters are empty" in cli("summary", str(tmp_path / "in.pt")).out


def test_placeholders_beside_their_shards(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = zero_folder(tmp_path / "z", 3, 2)
    torch.save({name: torch.empty(0) for name in wanted}, tmp_path / "z" / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    answer = cli("convert", "z/pytorch_model.bin", "-o", "out.pt")
    assert answer.code == 2
    command = shlex.split(answer.err.split("hint: `")[1].partition("`")[0])[1:]
    assert cli(*command).code == 0
    loaded = load_file("model.safetensors")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize(
    ("names", "kept", "patterns"),
    [
        (["fc.weight", "fc.bias"], ["conv.weight"], ["fc.*"]),
        (["decoder_blocks.0.w", "decoder_pred.w", "mask_token"], ["blocks.0.w"], ["decoder_*", "mask_token"]),
        (["head.fc.weight"], ["head.norm.weight"], ["head.fc.*"]),
        (["layer_1", "layer_2"], ["layer_3"], ["layer_1", "layer_2"]),
    ],
)
def test_patterns(names: list[str], kept: list[str], patterns: list[str]) -> None:
    assert drop_patterns(names, kept) == patterns
