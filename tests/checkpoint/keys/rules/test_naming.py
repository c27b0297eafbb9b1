"""Names of published code bases: loaded into timm's network with every value in its place, or the command that does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch

from modelprobe.checkpoint.keys.rearranged import Rearranged, rearranged
from tests.checkpoint.keys.namings import NAMINGS
from tests.command_line import CommandLine


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


EVERY_DAY = ("transformers ViT", "transformers ConvNeXt", "DINO")


@pytest.mark.parametrize("name", [n if n in EVERY_DAY else pytest.param(n, marks=pytest.mark.zoo) for n in NAMINGS])
def test_every_value_is_in_its_place(
    name: str, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naming = NAMINGS[name]
    model = naming.network()
    monkeypatch.chdir(tmp_path)
    torch.save({"model": naming.make(dict(model.state_dict()))}, "in.pth")
    settings = [word for key, value in naming.settings.items() for word in ("--set", f"{key}={value}")]
    answer = cli("repair", "in.pth", "--arch", f"timm:{naming.arch}", *settings, "-o", "out.pth")
    if not naming.whole:
        assert answer.code == 1
        command = shlex.split(answer.err.split("hint: ")[1].partition(" works: ")[0])[1:]
        answer = cli(*command)
    assert answer.code == 0, answer.err
    assert "order alone" not in answer.out
    loaded = torch.load("out.pth", weights_only=True)["model"]
    for key, value in model.state_dict().items():
        if key in loaded and not key.endswith("num_batches_tracked"):
            assert torch.equal(loaded[key], value if key != "head.bias" or name != "OpenAI CLIP" else value * 0), key
    lost = {key for key in model.state_dict() if key not in loaded}
    assert all(re.match(r"(head|fc)\.", key) for key in lost), lost
    assert bool(lost) <= (not naming.whole)
    other = timm.create_model(naming.arch, **naming.settings).eval()
    other.load_state_dict({**other.state_dict(), **loaded})
    if naming.whole and name != "OpenAI CLIP":  # whose head has no bias
        image = torch.rand(1, 3, *[naming.settings.get("img_size", 224)] * 2)
        with torch.no_grad():
            assert torch.equal(model(image), other(image))


@pytest.mark.zoo
def test_the_activation_that_the_names_of_clip_do_not_tell(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naming = NAMINGS["OpenAI CLIP"]
    monkeypatch.chdir(tmp_path)
    torch.save(naming.make(dict(naming.network().state_dict())), "in.pth")
    settings = [word for key, value in naming.settings.items() for word in ("--set", f"{key}={value}")]
    for arch, said in (("vit_base_patch16_clip_224", True), (naming.arch, False)):
        answer = cli("repair", "in.pth", "--arch", f"timm:{arch}", *settings, "-o", f"{arch}.pth")
        assert answer.code == 0
        assert ("QuickGELU" in answer.out) is said
    assert f"timm:{naming.arch} has the other" in " ".join(cli("keys", "in.pth", "--arch",
        "timm:vit_base_patch16_clip_224", *settings).out.split())  # fmt: skip


@pytest.mark.zoo
def test_what_a_function_does_with_elements() -> None:
    def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            "same": state["a"],
            "turned": state["a"].t(),
            "flat": state["a"].reshape(-1)[None],
            "cut": state["b"][2:4],
            "both": torch.cat([state["b"], state["b2"]]),
            "beside": torch.cat([state["a"], state["a2"]], dim=1),
            "zero": torch.zeros(3),
            "twice": state["a"] * 2,
            "mean": state["a"].mean(0),
            "sum": state["b"] + state["b2"],
            "mixed": torch.cat([state["b"], state["b2"] * 2]),
            "channels": state["conv"].permute(0, 2, 3, 1),
        }

    shapes = {"a": (2, 3), "a2": (2, 3), "b": (5, 2), "b2": (5, 2), "conv": (2, 3, 4, 5)}
    assert rearranged(convert, shapes) == {
        "same": Rearranged((2, 3), ("a",)),
        "turned": Rearranged((3, 2), ("a",), (("permute", (1, 0)),)),
        "flat": Rearranged((1, 6), ("a",), (("reshape", (1, 6)),)),
        "cut": Rearranged((2, 2), ("b",), (("rows", (2, 2)),)),
        "both": Rearranged((10, 2), ("b", "b2"), (("join", (0,)),)),
        "beside": Rearranged((2, 6), ("a", "a2"), (("join", (1,)),)),
        "zero": Rearranged((3,), ()),
        "channels": Rearranged((2, 4, 5, 3), ("conv",), (("permute", (0, 2, 3, 1)),)),
    }
    assert rearranged(lambda state: {"x": state["nothing"]}, shapes) is None
