"""`profile`: training steps, settings of a pass, several batches, what cannot be and what is interrupted."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cost.memory.steps import step_setting
from modelprobe.cost.timing import batches, passes
from modelprobe.cost.timing.passes import TimingSetting, prepare_pass
from modelprobe.errors import BadInput
from tests.command_line import SAMPLES, CommandLine, said

NET = f"{SAMPLES}:TinyCNN"
BRIEF = ("--input", "16", "--seconds", "0.02", "--threads", "1")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def told(cli: CommandLine, *line: str, code: int = 0) -> dict[str, Any]:
    answer = cli("profile", NET, *BRIEF, *line, "-f", "json")
    assert answer.code == code, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


@pytest.mark.zoo
def test_a_training_step(cli: CommandLine) -> None:
    step = told(cli, "--train", "--optimizer", "adam", "--batch", "4")
    forward = told(cli, "--batch", "4")
    assert (step["what"], forward["what"]) == ("training step", "forward pass")
    assert 2 * forward["macs"] < step["macs"] <= 3 * forward["macs"]
    assert step["peak_bytes"] > forward["peak_bytes"]
    assert step["peak_from"] == "estimated from shapes"
    both = told(cli, "--train", "--against-with", "amp")
    assert (both["what"], both["second"]["setting"][-1]) == ("training step", "autocast")


@pytest.mark.zoo
def test_a_step_with_a_loss_and_frozen_layers(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def loss(out):\n    return out.square().mean()\n")
    line = ("--train", "--loss", f"{tmp_path}/train.py:loss", "--freeze", "features.*")
    assert told(cli, *line)["macs"] < told(cli, "--train")["macs"]
    (tmp_path / "bad.py").write_text("def loss(out):\n    return out\n")
    answer = cli("profile", NET, *BRIEF, "--train", "--loss", f"{tmp_path}/bad.py:loss")
    assert answer.code == 2
    assert "the loss is a tensor of shape" in said(answer)


def test_a_timed_step_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    parameters = list(net.parameters())
    setting = TimingSetting(threads=1, channels_last=True, amp=True, step=step_setting("adamw"))
    made = prepare_pass(
        net, torch.rand(2, 3, 8, 8), kwargs={}, device="real", notes=(), env={"device": "cpu"}, setting=setting
    )
    with made.active():
        assert made.seconds(3) > 0
    made.close()
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net.training


def test_steps_do_not_change_what_they_train() -> None:
    net = nn.Linear(4, 2)
    setting = TimingSetting(step=step_setting("sgd-momentum"))
    made = prepare_pass(net, torch.rand(3, 4), kwargs={}, device="real", notes=(), env={}, setting=setting)
    inside = net.weight.detach().clone()
    with made.active():
        made.seconds(5)
    assert torch.equal(net.weight, inside)
    made.close()


def test_encoder_layers_take_their_fast_path() -> None:
    seen = []

    class Watched(nn.TransformerEncoderLayer):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(torch.backends.mha.get_fastpath_enabled())
            return super().forward(*args, **kwargs)

    net = Watched(8, 2, batch_first=True)
    prepare_pass(net, torch.rand(1, 4, 8), kwargs={}, device="real", notes=(), env={}, setting=TimingSetting()).close()
    assert all(seen)


def test_what_cannot_be_compiled_is_timed_eagerly(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(passes.torch, "compile", refuse)
    found = told(cli, "--compile")
    assert found["setting"] == []
    assert any("torch.compile failed (RuntimeError: no compiler at all)" in note["text"] for note in found["notes"])
    assert found["median_s"] > 0


def test_a_compiled_pass(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.torch, "compile", lambda model: model)
    assert told(cli, "--compile")["setting"] == ["compiled"]


@pytest.mark.zoo
def test_several_batches(cli: CommandLine) -> None:
    found = told(cli, "--batch", "1,4")
    assert [one["batch"] for one in found["profiles"]] == [1, 4]
    assert found["best"] in (1, 4)
    assert all(len(one["samples_s"]) >= 3 for one in found["profiles"])
    assert found["too_large"] is None


@pytest.mark.zoo
def test_the_best_batch_survives_the_end_of_memory(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = batches.profile_model

    def limited(loaded: Any, *others: Any) -> Any:
        if loaded.request.batch > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return real(loaded, *others)

    monkeypatch.setattr(batches, "profile_model", limited)
    monkeypatch.setattr(batches, "WORTH", 0.0)
    found = told(cli, "--batch", "auto")
    assert [one["batch"] for one in found["profiles"]] == [1, 2, 4]
    assert found["too_large"] == 8
    assert any("4 fits, 8 does not (CUDA out of memory)" in note["text"] for note in found["notes"])
    answer = cli("profile", NET, *BRIEF, "--batch", "6")
    assert answer.code == 2
    assert "a batch of 6 does not fit on cpu: CUDA out of memory | a batch of 3 fits" in said(answer)


@pytest.mark.zoo
def test_growing_ends_where_throughput_no_longer_grows(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WORTH", 1e9)
    assert len(told(cli, "--batch", "auto")["profiles"]) == 3


@pytest.mark.zoo
def test_more_than_this_machine_has_is_not_tried(cli: CommandLine) -> None:
    answer = cli("profile", NET, "--batch", "1000000")
    assert answer.code == 2
    assert re.search(r"1,000,000 does not fit on cpu: an estimated .* TiB of .* GiB that are free", answer.err)
    found = told(cli, "--batch", "10000000,1")
    assert (found["best"], found["too_large"]) == (1, 10_000_000)


def test_an_interrupted_run_reports_what_it_has(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = passes.PreparedPass.seconds, []

    def seconds(self: Any, number: int) -> float:
        calls.append(number)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return real(self, number)

    monkeypatch.setattr(passes.PreparedPass, "seconds", seconds)
    answer = cli("profile", NET, "--input", "16", "--seconds", "30", "-f", "json")
    assert answer.code == 130
    found = json.loads(answer.out)
    assert found["interrupted"]
    assert 3 <= len(found["samples_s"]) < 20
    assert any("Interrupted" in note["text"] for note in found["notes"])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (("--cuda-graph",), "--cuda-graph is for an eager forward on a CUDA device"),
        (("--optimizer", "adam"), "--optimizer is of a training step | add --train"),
        (("--loss", "x.py:f"), "--loss is of a training step"),
        (("--batch", "1,0"), "a batch has at least one example"),
        (("--train", "--predict", "rtx4090"), "a prediction measures nothing"),
        (("--train", "--freeze", "nothing.*"), "nothing.*"),
        (("--inputs-from", f"{SAMPLES}:tagger_inputs", "--batch", "1,2"), "--inputs-from"),
        (("--compile", "--by", "layer"), "--by looks into eager passes of one batch"),
        (("--device", "meta"), "on meta nothing is computed"),
        (("--threads", "1000000"), "is no number of threads for"),
        (("--predict", "rtx4090", "--channels-last"), "leave out --channels-last"),
        (("--against", NET, "--batch", "1,8"), "--against times one batch"),
        (("--device", "mps"), "--device mps cannot be used"),
    ],
)
def test_settings_that_cannot_be(cli: CommandLine, line: tuple[str, ...], text: str) -> None:
    answer = cli("profile", NET, "--seconds", "0.02", *line)
    assert answer.code == 2
    assert text in said(answer)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
def test_a_cuda_graph_gives_the_time_of_its_kernels(cli: CommandLine) -> None:
    eager = told(cli, "--device", "cuda", "--seconds", "0.5")
    graph = told(cli, "--device", "cuda", "--seconds", "0.5", "--cuda-graph")
    assert graph["setting"] == ["CUDA graph"]
    assert graph["median_s"] < eager["median_s"]  # a small network waits for launches
    for found in (eager, graph):
        assert 0 < found["event_s"] < 1.2 * found["median_s"]


@needs_cuda
def test_peak_memory_is_that_of_the_allocator(cli: CommandLine) -> None:
    found = told(cli, "--device", "cuda", "--batch", "64")
    assert found["peak_from"] == "by torch's allocator"
    assert found["peak_bytes"] > 64 * 8 * 16 * 16 * 4  # the first activation


@needs_cuda
def test_batches_grow_until_the_memory_of_a_device_ends(cli: CommandLine) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    try:
        found = told(cli, "--device", "cuda", "--batch", "64,1048576")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (found["best"], found["too_large"]) == (64, 1048576)


def test_more_threads_than_cores_are_said(cli: CommandLine) -> None:
    many = 2 * (os.cpu_count() or 1)
    answer = cli("profile", NET, "--input", "16", "--seconds", "0.02", "--threads", str(many), "-f", "json")
    found = json.loads(answer.out)
    assert any(f"{many} threads share" in note["text"] for note in found["notes"])
    assert found["rates"]["peaks"] is None


@pytest.mark.zoo
def test_a_batch_that_the_model_refuses_leaves_the_others(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(8, 8)\n"
        "    def forward(self, x):\n"
        "        if len(x) > 4:\n            raise ValueError('too many')\n"
        "        return super().forward(x)\n"
    )
    for wanted in ("1,8", "auto"):
        line = ("profile", f"{tmp_path}/net.py:Net", "--seconds", "0.02", "--batch", wanted, "-f", "json")
        answer = cli(*line)
        assert answer.code == 0
        found = json.loads(answer.out)
        assert found["profiles"][0]["batch"] == 1
        assert any("A batch of 8 was not timed" in note["text"] for note in found["notes"])


@pytest.mark.zoo
def test_the_python_function_takes_the_settings_of_the_command() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    x = torch.rand(2, 3, 16, 16)
    step = modelprobe.profile(net, x, seconds=0.05, threads=1, train=True, optimizer="adam", amp=True)
    assert (step.what, step.setting) == ("training step", ("autocast",))
    assert step.macs > 2 * modelprobe.count_flops(net, x).macs
    layers = modelprobe.profile(net, x, seconds=0.05, threads=1, by="layer").layers
    assert layers is not None
    assert {one.path for one in layers.layers} == {"", "0", "1", "2", "3"}
    assert sum(one.exclusive_s for one in layers.layers) == pytest.approx(layers.median_s)
    for wrong in ({"by": "line"}, {"by": "layer", "compile": True}):
        with pytest.raises(BadInput):
            modelprobe.profile(net, x, **wrong)
    assert all(torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))
