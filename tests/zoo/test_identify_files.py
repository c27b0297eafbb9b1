"""`identify` of files: training runs, half precision, other heads; adapters, optimizers, deltas are named as such."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tests.command_line import CommandLine


@pytest.fixture
def identified(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """Save a content, and the JSON that `identify` prints of it."""
    cli = CommandLine(capsys)

    def ask(content: Any, *arguments: str, name: str = "model.pth") -> Any:
        torch.save(content, tmp_path / name)
        answer = cli("identify", str(tmp_path / name), "-f", "json", *arguments)
        assert answer.code == 0, answer.err
        return json.loads(answer.out)

    return ask


def squeezenet(**settings: Any) -> dict[str, torch.Tensor]:
    return torchvision.models.squeezenet1_1(**settings).state_dict()


@pytest.mark.zoo
def test_a_training_run(identified: Callable[..., Any]) -> None:
    state = {f"module.{name}": value.half() for name, value in squeezenet(num_classes=7).items()}
    run = {"epoch": 3, "state_dict": state, "state_dict_ema": dict(state), "optimizer": {"state": {}}}
    found = identified(run)
    assert (found["verdict"], found["target"], found["branch"]) == (
        "certain",
        "torchvision:squeezenet1_1",
        "state_dict",
    )
    assert found["candidates"][0]["settings"] == {"num_classes": 7}
    assert found["naming"] == ["DataParallel prefix `module.`"]
    assert "--arch torchvision:squeezenet1_1 --set num_classes=7" in found["command"]
    assert any("state_dict_ema" in note["text"] for note in found["notes"])
    assert identified(run, "--branch", "state_dict_ema")["verdict"] == "certain"


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in squeezenet().items() if not name.startswith(names)}


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (squeezenet(num_classes=7), "keys"),
        (without("classifier."), "--drop 'classifier.*'"),
        (without("features.3.squeeze.weight"), "--drop features.3.squeeze.weight"),
        ({**squeezenet(), "teacher.a": torch.zeros(2), "teacher.b": torch.zeros(3)}, "--drop 'teacher.*' -o"),
        ({f"module.{name}": value for name, value in without("classifier.").items()}, "repair"),
        ({name.replace("features", "body"): value for name, value in squeezenet().items()}, "repair"),
    ],
)
def test_the_command_works(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    identified: Callable[..., Any], content: Any, part: str,
) -> None:  # fmt: skip
    import shlex

    monkeypatch.chdir(tmp_path)
    command = identified(content)["command"]
    assert part in command
    answer = CommandLine(capsys)(*shlex.split(command)[1:])
    assert answer.code == 0, answer.err


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:torch.ao.quantization")
def test_no_command_is_named_where_none_would_work(identified: Callable[..., Any]) -> None:
    linear = torch.ao.quantization.quantize_dynamic(torchvision.models.vit_b_32(), {torch.nn.Linear})
    found = identified(linear.state_dict())
    assert (found["target"], found["command"]) == ("torchvision:vit_b_32", "")
    gray = torchvision.models.resnet18().state_dict()
    gray["conv1.weight"] = gray["conv1.weight"][:, :1]
    found = identified(gray)  # torchvision's builder takes no in_chans, timm's of the same names does
    assert found["command"].endswith("--arch timm:resnet18 --set in_chans=1")


def test_an_adapter_names_the_networks_that_it_fits(identified: Callable[..., Any]) -> None:
    layer = "encoder.layers.encoder_layer_11.mlp.0"
    parts = {"lora_A": torch.zeros(4, 768), "lora_B": torch.zeros(3072, 4)}
    found = identified({f"base_model.model.{layer}.{part}.weight": value for part, value in parts.items()})
    (fits,) = [note["text"] for note in found["notes"] if note["text"].startswith("It fits ")]
    assert fits == "It fits torchvision:vit_b_16, torchvision:vit_b_32, which have these layers with these shapes."


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state": {0: {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}, "param_groups": [{}]}, "optimizer"),
        ({f"layer{i}.weight.delta": torch.zeros(2, 2) for i in range(8)}, "delta"),
        (
            {f"base_model.model.q{i}.lora_{part}.weight": torch.zeros(4, 4) for i in range(4) for part in "AB"},
            "adapter",
        ),
    ],
)
def test_what_is_no_network(identified: Callable[..., Any], content: Any, kind: str) -> None:
    found = identified(content)
    assert (found["kind"], found["verdict"], found["target"]) == (kind, "unknown", None)


@pytest.mark.zoo
def test_an_unknown_network_gets_a_blueprint(identified: Callable[..., Any]) -> None:
    layer = torch.nn.TransformerEncoderLayer(48, 4, 96)
    found = identified(torch.nn.TransformerEncoder(layer, 5, enable_nested_tensor=False).state_dict())
    assert (found["verdict"], found["target"]) == ("unknown", None)
    assert len(found["candidates"]) == 3  # whose names are others: the nearest by shapes
    assert all(one["score"] <= 0.5 and one["missing"] + one["extra"] for one in found["candidates"])
    facts = {fact["what"]: fact for fact in found["blueprint"]["facts"]}
    assert (facts["Numbered blocks"]["value"], facts["Numbered blocks"]["known"]) == ("5 under layers", "confirmed")
    assert facts["Strides, groups, activations, input"]["known"] == "unknown"


@pytest.mark.zoo
def test_missing_auxiliary_classifiers_are_no_missing_head(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, identified: Callable[..., Any]
) -> None:
    found = identified(torchvision.models.googlenet(aux_logits=False, init_weights=False).state_dict())
    assert (found["verdict"], found["target"]) == ("certain", "torchvision:googlenet")
    assert found["candidates"][0]["differences"] == ["no auxiliary classifiers (18 tensors)"]
    answer = CommandLine(capsys)("params", str(tmp_path / "model.pth"), "-f", "json")
    assert json.loads(answer.out)["total"] == 6_624_904


@pytest.mark.zoo
def test_channels_that_a_builder_does_not_take(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, identified: Callable[..., Any]
) -> None:
    state = squeezenet()
    state["features.0.weight"] = torch.zeros(64, 12, 3, 3)
    found = identified(state)
    assert (found["verdict"], found["command"]) == ("certain", "")
    answer = CommandLine(capsys)("flops", str(tmp_path / "model.pth"))
    assert answer.code == 2
    assert "its builder cannot make: 12 input channels instead of 3" in answer.err


@pytest.mark.zoo
def test_other_tensors_in_the_file_are_said_when_a_network_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    large = torchvision.models.mobilenet_v3_small().state_dict()
    torch.save({"teacher": large, "student": squeezenet()}, tmp_path / "both.pth")
    torch.save({"state_dict": squeezenet(), "state_dict_ema": squeezenet()}, tmp_path / "ema.pth")
    cli = CommandLine(capsys)
    assert "holds other tensors too, in " in cli("flops", str(tmp_path / "both.pth"), "-f", "json").out
    assert "holds other tensors too" not in cli("flops", str(tmp_path / "ema.pth"), "-f", "json").out


def test_a_recorded_run_is_named_as_such(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "run.mptrace"
    cli = CommandLine(capsys)
    assert cli("flops", "squeezenet1_1", "--input", "64", "--save-trace", str(file)).code == 0
    for command in ("params", "buffers", "identify", "health"):
        answer = cli(command, str(file))
        assert "a recorded run, which has no weights" in answer.err
