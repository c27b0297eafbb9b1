"""Tensors that a model ties and a file holds with different values: loading would lose one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.command_line import CommandLine

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.body(self.embed(x)))
"""


@pytest.fixture
def state(tmp_path: Path) -> dict[str, torch.Tensor]:
    (tmp_path / "net.py").write_text(NET)
    weight = torch.arange(40.0).reshape(10, 4)
    return {"embed.weight": weight, "body.weight": torch.ones(4, 4), "body.bias": torch.ones(4), "head.weight": weight}


def keys(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> list[str]:
    arch = f"{path.parent / 'net.py'}:Net"
    answer = CommandLine(capsys)("keys", str(path), "--arch", arch, "-f", "json", *more)
    return list(json.loads(answer.out)["untied"])


@pytest.mark.zoo
@pytest.mark.parametrize("how", ["torch", "legacy", "safetensors"])
def test_different_values_are_named_and_counted(
    how: str, state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("m.safetensors" if how == "safetensors" else "m.pt")
    for changed in (0, 3):
        state["head.weight"] = state["embed.weight"].clone()
        state["head.weight"].view(-1)[:changed] -= 1
        if how == "safetensors":
            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=how == "torch")
        said = keys(capsys, path)
        assert len(said) == (1 if changed else 0)
        assert all("embed.weight and head.weight are one tensor" in text for text in said)
        assert all("3 of their 40 values differ in the file: loading keeps those of head.weight" in t for t in said)


def test_what_torch_loads_is_what_is_said(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    space: dict[str, type[torch.nn.Module]] = {}
    exec(NET, space)
    net = space["Net"]()
    net.load_state_dict({**state, "head.weight": state["embed.weight"] + 1})
    assert torch.equal(net.state_dict()["embed.weight"], state["embed.weight"] + 1)


def test_equal_and_shared_values_pass(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for second in (state["embed.weight"], state["embed.weight"].clone()):
        torch.save({**state, "head.weight": second}, tmp_path / "m.pt")
        assert keys(capsys, tmp_path / "m.pt", "--strict") == []


def test_other_commands_that_load_say_it_too(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({**state, "head.weight": state["embed.weight"] + 1}, tmp_path / "m.pt")
    run, net = CommandLine(capsys), f"{tmp_path / 'net.py'}:Net"
    answer = run("health", net, "--weights", str(tmp_path / "m.pt"), "--input", "3:int64")
    assert "loading keeps those of head.weight" in " ".join((answer.out + answer.err).split())
    answer = run("repair", str(tmp_path / "m.pt"), "--arch", net)
    assert "loading keeps those of head.weight" in " ".join(answer.out.split())
