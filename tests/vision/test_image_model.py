"""Which weights does a model look with? Published ones, a file's, or random ones that nobody can take for trained."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path

import pytest
import torch
import torchvision

from modelprobe.errors import BadInput
from modelprobe.model.build import TargetRequest
from modelprobe.model.weights import download as network
from modelprobe.report.blocks import Level
from modelprobe.vision.image_model import ImageModelRequest, load_image_model
from tests.command_line import SAMPLES, CommandLine, said
from tests.samples import ROOT, models

CNN = f"{SAMPLES}:TinyCNN"
SHAPES = str(ROOT / "samples" / "shapes.png")
NAME = "squeezenet1_1"  # 5 MB: the smallest of torchvision's


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache, with a file of weights in it as its hub would have put it there; and that network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    entry = torchvision.models.get_model_weights(NAME).DEFAULT
    return folder / entry.url.rpartition("/")[2]


def loaded(target: str, settings: tuple[str, ...] = (), weights: str = "pretrained", arch: str | None = None):
    return load_image_model(ImageModelRequest(TargetRequest(target, settings, weights=weights, arch=arch)))


def warned(sight) -> list[str]:
    return [note.text for note in sight.notes if note.level is Level.WARNING]


def test_published_weights_from_the_cache(hub: Path) -> None:
    torch.manual_seed(5)
    net = torchvision.models.squeezenet1_1()
    torch.save(net.state_dict(), hub)
    seen = loaded(f"torchvision:{NAME}")
    assert (seen.weights.kind, seen.weights.trained) == ("pretrained", True)
    assert seen.weights.name == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert not seen.model.training
    assert all(torch.equal(a, b) for a, b in zip(seen.model.parameters(), net.parameters(), strict=True))
    assert not warned(seen)


def test_a_poisoned_cache_is_never_run(hub: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "it ran",)

    hub.write_bytes(pickle.dumps({"conv": Trap()}))
    seen = loaded(f"torchvision:{NAME}")
    assert seen.weights.trained is False
    assert "could not be loaded" in seen.weights.reason
    assert not (tmp_path / "it ran").exists()


def test_random_weights_are_loud(cli: CommandLine) -> None:
    command = ("predict", f"torchvision:{NAME}", "--image", SHAPES, "--resize", "32x32", "--no-crop")
    answer = cli(*command)
    assert answer.code == 0
    assert "Weights  RANDOM  not trained, seed 0" in answer.out
    assert "warning: RANDOM WEIGHTS (seed 0)" in answer.out
    found = json.loads(cli(*command, "-f", "json").out)
    assert found["weights"]["trained"] is False
    assert "MODELPROBE_OFFLINE is set" in found["weights"]["reason"]
    assert found["notes"][0]["level"] == "warning"
    assert cli(*command, "--strict").code == 3
    assert cli(*command, "--weights", "random", "--strict").code == 0  # asked for in so many words
    assert cli(*command).out == answer.out  # seeded


@pytest.mark.parametrize("name", [f"torchvision:{NAME}", "timm:test_vit"])
def test_a_network_out_of_reach(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: object, **more: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.delenv("MODELPROBE_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", refuses)
    seen = loaded(name)
    assert "cannot be reached ([Errno 101] Network is unreachable)" in seen.weights.reason


@pytest.mark.zoo
def test_a_host_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.delenv("MODELPROBE_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: answered.wait(20))
    with pytest.raises(network.UnreachableError, match=r"example\.org did not answer within 0 s"):
        network.check_reachable("https://example.org/x.pth", patience=0.1)
    answered.set()


def test_a_download_that_breaks_off(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(url: str, place: str, *more: object, **still: object) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(network, "check_reachable", lambda url: None)
    monkeypatch.setattr("torch.hub.download_url_to_file", breaks)
    seen = loaded(f"torchvision:{NAME}")
    assert "could not be downloaded (connection reset)" in seen.weights.reason
    assert not hub.exists()


def test_other_class_counts_do_not_take_published_weights(hub: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), hub)
    seen = loaded(f"torchvision:{NAME}", ("num_classes=7",))
    assert seen.weights.trained is False
    assert "num_classes" in seen.weights.reason


@pytest.mark.zoo
def test_none_are_published() -> None:
    import timm

    name = next(n for n in timm.list_models("*tiny*") if not timm.models.get_pretrained_cfg(n).has_weights)
    assert "timm publishes none for it" in loaded(f"timm:{name}").weights.reason


def test_weights_of_a_file_are_repaired(tmp_path: Path) -> None:
    torch.manual_seed(4)
    net = models.TinyCNN()
    torch.save({"epoch": 3, "model": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "w.pth")
    by_option = loaded(CNN, weights=str(tmp_path / "w.pth"))
    as_target = loaded(str(tmp_path / "w.pth"), arch=CNN)
    for seen in (by_option, as_target):
        assert seen.weights.kind == "file"
        assert torch.equal(seen.model.head.weight, net.head.weight)
        assert "repaired in memory (`module.` prefix)" in seen.notes[0].text


@pytest.mark.zoo
def test_weights_that_do_not_fit(cli: CommandLine) -> None:
    torch.save(models.TinyCNN(classes=3).state_dict(), "three.pth")
    answer = cli("predict", CNN, "--weights", "three.pth", "--image", SHAPES)
    assert "three.pth does not fit" in said(answer)
    assert answer.code == 2
    Path("text.pth").write_text("hello")
    assert "text.pth" in said(cli("predict", CNN, "--weights", "text.pth", "--image", SHAPES))
    answer = cli("predict", "three.pth", "--arch", CNN, "--weights", "three.pth", "--image", SHAPES)
    assert "is a weight file already" in said(answer)


def test_a_model_of_ones_own_says_that_nobody_knows() -> None:
    seen = loaded(CNN)
    assert seen.weights.trained is None
    assert "whether they are trained is not known" in seen.notes[0].text
    assert loaded(CNN, weights="random").weights.trained is False


@pytest.mark.zoo
def test_an_instance_is_copied(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))\n"
    )
    target = f"{tmp_path / 'made.py'}:net"
    seen = loaded(target)
    assert not seen.model.training
    assert seen.loaded.target.source.make({}).training  # the user's own is as it was
    with pytest.raises(BadInput, match="a model already built"):
        loaded(target, weights="random")


@pytest.mark.parametrize(
    ("text", "found"), [("3", 3), ("class 2", 2), ("TENCH", 0), ("tinca  tinca", 0), ("great", 1), ("bat", 4)]
)
def test_labels_are_found(text: str, found: int) -> None:
    from modelprobe.vision.labels import Labels

    assert Labels(("tench, Tinca tinca", "great white shark", "tiger shark", "baseball bat", "bat")).find(text) == found


@pytest.mark.parametrize(("text", "says"), [("shark", "names 2 classes: 1 (great"), ("tensh", "no class is called")])
def test_labels_that_mean_nothing_or_too_much(text: str, says: str) -> None:
    from modelprobe.vision.labels import Labels

    with pytest.raises(BadInput) as raised:
        Labels(("tench", "great white shark", "tiger shark")).find(text)
    assert says in raised.value.message
    assert raised.value.hint
