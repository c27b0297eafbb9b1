"""`modelprobe keys`: counts, reasons, the command that repairs, exit codes; torch stays out of what needs none."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.cli.app import main
from modelprobe.model.target import resolve
from modelprobe.model.weights.keys_result import compare_keys
from modelprobe.model.weights.load import fit
from tests.checkpoint.mangling import MANGLINGS, prefixed, randomised
from tests.command_line import SAMPLES, CommandLine

TINY = f"{SAMPLES}:TinyCNN"


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


@pytest.fixture
def state():
    return randomised(resolve(TINY).build("cpu").module).state_dict()


@pytest.fixture
def saved(tmp_path):
    def save(value) -> str:
        torch.save(value, tmp_path / "x.pth")
        return str(tmp_path / "x.pth")

    return save


def reasons(path: str, spec: str = TINY, settings=()) -> dict[str, str]:
    result = compare_keys(fit(open_checkpoint(path), target=resolve(spec, settings)))
    return {f"{misfit.kind} {misfit.name}": misfit.reason for misfit in result.misfits}


def test_what_fits(cli, saved, state):
    answer = cli("keys", saved(state), "--arch", TINY)
    assert answer.code == 0
    assert answer.err == ""
    assert "Fits      yes" in answer.out


@pytest.mark.zoo
def test_what_does_not_fit_comes_with_the_command_that_repairs(cli, saved, state, tmp_path, monkeypatch):
    path = saved(prefixed(state, "module"))
    answer = cli("keys", path, "--arch", TINY, "-f", "json")
    assert answer.code == 1
    found = json.loads(answer.out)
    assert found["schema"] == "modelprobe.keys/2"
    data = found.get("data", found)
    assert (data["matched"], data["fits"], data["repairable"]) == (0, False, True)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(data["command"])[1:]) == 0
    assert cli("keys", str(tmp_path / "x.repaired.pth"), "--arch", TINY).code == 0


def test_without_a_reference_nothing_is_judged(cli, saved, state):
    answer = cli("keys", saved(prefixed(state, "module")))
    assert answer.code == 0
    assert "`module.` prefix" in answer.out
    assert "name a model or a file with --arch" in " ".join(answer.out.split())


def test_a_file_as_the_reference(cli, saved, state, tmp_path):
    torch.save(state, tmp_path / "right.pt")
    answer = cli("keys", saved(prefixed(state, "net")), "--arch", str(tmp_path / "right.pt"))
    assert answer.code == 1
    assert "`net.` prefix" in answer.out


def test_reasons(saved, state):
    without = {name: value for name, value in state.items() if "num_batches" not in name}
    found = reasons(saved({**without, "n_averaged": torch.tensor(3)}))
    assert found == {
        "missing features.1.num_batches_tracked": "num_batches_tracked is absent",
        "unexpected n_averaged": "a counter of the averaging wrapper, no weight",
    }


def test_a_head_of_other_classes(saved, state):
    found = reasons(saved(state), settings=["classes=3"])
    said = "the head head has 10 classes, 3 are expected"
    assert found == {"other shape head.weight": said, "other shape head.bias": said}


def test_another_dtype_fits_and_is_told(cli, saved, state):
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    answer = cli("keys", saved(half), "--arch", TINY)
    assert answer.code == 0
    assert "other dtype" in answer.out


def test_the_averaged_weights_are_offered(cli, saved, state):
    answer = cli("keys", saved(MANGLINGS["EMA beside raw"](state)), "--arch", TINY)
    assert "state_dict_ema" in answer.out
    assert "--branch" in answer.out


@pytest.mark.zoo
def test_nothing_of_the_file_is_trusted_on_screen(cli, saved, state):
    answer = cli("keys", saved({**state, "\x1b[31mred[/]": torch.ones(2)}), "--arch", TINY)
    assert answer.code == 1
    assert "\x1b" not in answer.out + answer.err
    assert "\\x1b[31mred[/]" in answer.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.pth"], "nowhere.pth"),
        (["https://example.org/x.pth"], "is not on this machine"),
        (["FILE", "--branch", "ema"], "has no tensors under ema"),
        (["FILE", "--arch", "nonsuch50"], "nonsuch50"),
        (["FILE", "--set", "a=1"], "--set needs a model"),
        (["FILE", "--arch", "FILE", "--from", "resnet18"], "need a model after --arch"),
        (["FILE", "--grid", "3by4"], "is no grid"),
    ],
)
def test_bad_input(cli, saved, state, arguments, says):
    path = saved(state)
    answer = cli("keys", *(path if argument == "FILE" else argument for argument in arguments))
    assert answer.code == 2
    assert says in answer.err
    assert answer.out == ""


def test_deep_and_odd_names(saved):
    odd = {"a" * 10 + ".b" * 5000: torch.ones(2), "": torch.ones(2), "..": torch.ones(2), ".w": torch.ones(2)}
    found = reasons(saved(odd), f"{Path(__file__).parents[1] / 'mangling.py'}:Alike")
    assert len(found) == 4 + 10
