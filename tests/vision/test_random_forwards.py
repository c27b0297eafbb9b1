"""Forwards that draw random numbers in eval mode, or depend on their batch: said, and the answer is one; shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import modelprobe
from tests.command_line import CommandLine

NET = """
import random
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, how="dropout"):
        super().__init__()
        self.how, self.conv, self.head = how, nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        if self.how == "dropout":
            x = F.dropout(x, 0.5, training=True)
        elif self.how == "noise":
            x = x + torch.randn_like(x)
        elif self.how == "python":
            x = x * (0.5 + random.random())
        return self.head(x.relu().mean((2, 3)))
"""
DRAWS = "The forward draws random numbers"


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:Net"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.mark.zoo
@pytest.mark.parametrize(("how", "library"), [("dropout", "torch"), ("noise", "torch"), ("python", "random")])
def test_predict_says_it_and_is_the_same_each_time(how: str, library: str, net: str, run: CommandLine) -> None:
    line = ("predict", net, "--set", f"how={how}", "--image", "samples/shapes.png", "-f", "json")
    first, again = (json.loads(run(*line).out) for _ in range(2))
    assert first["predictions"] == again["predictions"]
    (said,) = [note for note in first["notes"] if DRAWS in note["text"]]
    assert (said["level"], f"({library})" in said["text"]) == ("warning", True)
    assert run(*line, "--strict").code == 3
    other = json.loads(run("predict", net, "--set", "how=none", *line[4:]).out)
    assert not any(DRAWS in note["text"] for note in other["notes"])


@pytest.mark.parametrize(
    ("command", "said"),
    [(("cam",), True), (("features", "--layers", "head"), True), (("features", "--layers", "conv"), False)],
)
def test_other_commands(command: tuple[str, ...], said: bool, net: str, run: CommandLine) -> None:
    """`features` stops at the last layer that is wanted: before the first one nothing is drawn."""
    name, *options = command
    answer = json.loads(run(name, net, *options, "--image", "samples/shapes.png", "-f", "json").out)
    assert any(DRAWS in note["text"] for note in answer["notes"]) is said


def test_python_functions_tell_of_it_and_repeat_themselves(net: str) -> None:
    space: dict[str, Any] = {}
    exec(NET, space)
    torch.manual_seed(0)
    model, x = space["Net"](), torch.rand(3, 16, 16)
    state = torch.get_rng_state()
    for function in (
        lambda: modelprobe.predict(model, x)[0].probability,
        lambda: modelprobe.cam(model, x).map.tolist(),
        lambda: modelprobe.extract_features(model, x[None], "head")["head"].tolist(),
    ):
        with pytest.warns(UserWarning, match=r"Net draws random numbers in eval mode \(torch\)"):
            first = function()
        with pytest.warns(UserWarning, match="draws random"):
            assert function() == first
    assert torch.equal(torch.get_rng_state(), state)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


class Centred(nn.Module):
    """What it says of an image depends on the others in its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return (x - x.mean(0))[:, :4]


def test_predict_of_a_batch_says_what_it_says_of_each_image() -> None:
    x = torch.rand(3, 3, 4, 4)
    each = [[guess.score for guess in modelprobe.predict(Centred(), image)] for image in x]
    assert [[guess.score for guess in row] for row in modelprobe.predict(Centred(), x)] == each


@pytest.mark.parametrize(("conv", "pool", "shape"), [
    (nn.Conv1d(2, 8, 5), nn.AdaptiveAvgPool1d(1), (2, 64)),
    (nn.Conv3d(2, 8, 3), nn.AdaptiveAvgPool3d(1), (2, 8, 9, 10)),
])  # fmt: skip
def test_signals_and_volumes(conv: nn.Module, pool: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 3)).eval()
    batch = torch.rand(5, *shape)
    expected = model(batch).softmax(1)
    found = modelprobe.predict(model, batch, 1)
    assert [row[0].probability for row in found] == pytest.approx(expected.max(1).values.tolist(), abs=1e-6)
    assert modelprobe.predict(model, batch[3], 1)[0].index == int(expected[3].argmax())
    assert tuple(modelprobe.cam(model, batch[0]).map.shape) == shape[1:]


@pytest.mark.zoo
def test_images_for_a_network_with_a_convolution_of_signals_further_on() -> None:
    """Its stem is a subclass of Conv2d, its channel attention a Conv1d."""
    model = timm.create_model("eca_nfnet_l0", num_classes=3).eval()
    image = torch.rand(3, 64, 64)
    assert modelprobe.predict(model, image, 1)[0].index == int(model(image[None]).argmax())


def test_images_are_taken_in_the_type_of_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval().to(torch.bfloat16)
    image = torch.rand(3, 8, 8)
    assert modelprobe.predict(model, image, 1)[0].index == int(model(image[None].bfloat16()).argmax())


@pytest.mark.parametrize(("dimensions", "x", "said"), [
    (2, torch.zeros(0, 3, 8, 8), "was given nothing to look at: x is 0x3x8x8"),
    (2, torch.zeros(3, 8, 8, dtype=torch.uint8), "takes floats, not torch.uint8"),
    (2, torch.zeros(8, 8), "takes images, [C, H, W] or [B, C, H, W], or videos, [B, C, T, H, W] of floats, not 8x8"),
    (1, torch.zeros(1, 3, 8, 8, 8), "takes signals, [C, L] or [B, C, L] of floats, not 1x3x8x8x8"),
    (3, torch.zeros(3, 8), "takes volumes, [C, D, H, W] or [B, C, D, H, W] of floats, not 3x8"),
])  # fmt: skip
@pytest.mark.parametrize("function", [modelprobe.predict, modelprobe.cam])
def test_what_is_no_input(function: Callable[..., Any], dimensions: int, x: torch.Tensor, said: str) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](3, 4, 3)
    with pytest.raises(modelprobe.ProbeError, match=re.escape(said)):
        function(nn.Sequential(conv, nn.Flatten(), nn.LazyLinear(3)), x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_script_is_looked_at_all_the_same(tmp_path: Path, run: CommandLine) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    script = torch.jit.script(net)
    assert modelprobe.predict(script, torch.ones(3, 8, 8)) == modelprobe.predict(net, torch.ones(3, 8, 8))
    (tmp_path / "net.py").write_text(
        f"import torch\ndef net():\n    return torch.jit.load({str(tmp_path / 'm.pt')!r})\n"
    )
    torch.jit.save(script, tmp_path / "m.pt")
    answer = run("predict", f"{tmp_path / 'net.py'}:net", "--image", "samples/shapes.png")
    assert answer.code == 0, answer.err


def test_a_model_without_values_is_refused(tmp_path: Path, run: CommandLine) -> None:
    text = "import torch\n" + NET + "\ndef net():\n    return Net('none').to('meta')\n"
    (tmp_path / "net.py").write_text(text)
    for command in (("features", "--layers", "conv"), ("predict",), ("cam",)):
        name, *options = command
        answer = run(name, f"{tmp_path / 'net.py'}:net", *options, "--image", "samples/shapes.png")
        assert answer.code == 2
        assert "conv.weight of Net is on meta and has no values" in answer.err
    with pytest.raises(modelprobe.ProbeError, match="on meta and has no values"):
        modelprobe.predict(nn.Sequential(nn.Flatten(), nn.Linear(48, 4, device="meta")), torch.ones(3, 4, 4))
