"""`diverge`, `health` and the new reports of `params` from the command line: verdicts, exit codes, wrong questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.command_line import SAMPLES, CommandLine
from tests.samples import ROOT

CNN = f"{SAMPLES}:TinyCNN"
DIGITS = str(ROOT / "samples" / "digit_cnn.pth")
LOSSES = """
def vector(out):
    return out

def raising(out):
    raise ValueError("no")

def constant(out):
    return out.detach().mean()
"""


@pytest.fixture
def cli(capsys, monkeypatch):  # type: ignore[no-untyped-def]
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return CommandLine(capsys)


@pytest.mark.zoo
def test_the_fields_that_scripts_rely_on(cli) -> None:  # type: ignore[no-untyped-def]
    equal = cli("diverge", CNN, CNN, "--input", "1x3x32x32", "-f", "json")
    assert equal.code == 0
    assert (json.loads(equal.out)["verdict"], json.loads(equal.out)["culprit"]) == ("equal", None)
    other = cli(
        "diverge", "timm:test_vit", "timm:test_vit", "--set-b", "act_layer=gelu_tanh", "--input", "160", "-f", "json"
    )
    assert other.code == 1
    found = json.loads(other.out)
    assert found["verdict"] == "diverges"
    assert {key: found["culprit"][key] for key in ("path_a", "path_b", "operator")} == {
        "path_a": "blocks.0.mlp.act", "path_b": "blocks.0.mlp.act", "operator": "aten.gelu",
    }  # fmt: skip
    assert "part at aten.gelu in blocks.0.mlp.act" in other.err


@pytest.mark.zoo
def test_types_and_files_are_compared(cli) -> None:  # type: ignore[no-untyped-def]
    low = cli("diverge", "timm:test_vit", "timm:test_vit", "--dtype-b", "bfloat16", "--input", "160", "-f", "json")
    assert json.loads(low.out)["verdict"] == "equal"
    assert max(row["largest"] for row in json.loads(low.out)["drift"]) > 1e-3
    network = f"{SAMPLES}:DigitCNN"
    given = cli("diverge", DIGITS, network, "--arch", network, "--input", "1x1x28x28", "-f", "json")
    assert json.loads(given.out)["verdict"] == "equal"  # the network has no weights and gets the file's
    assert "Weights were copied from" in given.out


@pytest.mark.zoo
def test_the_copies_of_two_libraries(cli) -> None:  # type: ignore[no-untyped-def]
    answer = cli("diverge", "resnet18", "timm:resnet18", "--input", "64", "--train", "-f", "json")
    assert json.loads(answer.out)["verdict"] == "equal"


@pytest.mark.zoo
@pytest.mark.parametrize(
    "pair",
    [
        ("resnet50", "timm:resnet50"),
        ("vit_b_16", "timm:vit_base_patch16_224"),
        ("convnext_tiny", "timm:convnext_tiny"),
    ],
)
def test_converted_weights_of_two_libraries(cli, pair) -> None:  # type: ignore[no-untyped-def]
    answer = cli("diverge", *pair, "-f", "json")
    assert json.loads(answer.out)["verdict"] == "equal"


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((CNN, f"{SAMPLES}:TinyAttention"), 2, "does not take the inputs"),
        ((CNN, "nosuch"), 2, "no model of torchvision or timm is called 'nosuch'"),
        ((CNN, CNN, "--set-b", "nope=1"), 2, "has no argument 'nope'"),
        ((CNN, CNN, "--dtype-b", "int8"), 2, "int8"),
        ((CNN, CNN, "--input", "5x32x32"), 2, "both sides raise"),
        ((DIGITS, CNN), 2, "holds tensors, not a network"),
    ],
)
def test_wrong_questions_of_diverge(cli, arguments, code, said) -> None:  # type: ignore[no-untyped-def]
    answer = cli("diverge", *arguments)
    assert answer.code == code
    assert said in answer.err
    assert "hint:" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((CNN, "--loss", "losses.py:vector"), 2, "not a scalar"),
        ((CNN, "--loss", "losses.py:raising"), 4, "the loss raising raised ValueError: no"),
        ((CNN, "--loss", "losses.py:constant"), 2, "depends on no parameter"),
        ((CNN, "--loss", "nope"), 2, "does not name a function"),
        ((CNN, "--input", "8x5x32x32"), 4, "raised RuntimeError"),
        ((CNN, "--image", "nope.png"), 2, "nope.png"),
        ((CNN, "--branch", "model"), 2, "--branch is for weight files"),
        ((DIGITS, "--input", "1x28x28"), 2, "--input is for a model that is run"),
        (("nope.pth",), 2, "no such file"),
    ],
)
def test_wrong_questions_of_health(cli, tmp_path: Path, monkeypatch, arguments, code, said) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "losses.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    answer = cli("health", *arguments)
    assert answer.code == code
    assert said in answer.err


def test_health_of_files_and_models(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert cli("health", DIGITS).code == 0
    torch.save({"weight": torch.full((8, 8), float("nan"))}, tmp_path / "bad.pth")
    bad = cli("health", str(tmp_path / "bad.pth"))
    assert bad.code == 1
    assert "not finite" in bad.out
    images = [str(ROOT / "samples" / f"digit_{name}.png") for name in "ab"]
    seen = cli("health", DIGITS, "--arch", f"{SAMPLES}:DigitCNN", *(x for path in images for x in ("--image", path)))
    assert seen.code == 0
    assert "nothing found" in seen.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lr", "x=1"), "--lr is for --groups"),
        (("--groups", "--lr", "nope.*=1"), "first to fit no parameter"),
        (("--groups", "--init"), "reports of their own"),
        (("--init", "--freeze", "head"), "reports of their own"),
    ],
)
def test_wrong_questions_of_params(cli, arguments, said) -> None:  # type: ignore[no-untyped-def]
    answer = cli("params", CNN, *arguments)
    assert answer.code == 2
    assert said in answer.err
