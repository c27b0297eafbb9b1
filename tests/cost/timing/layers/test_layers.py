"""Times by module and operator: what the profiler saw is the recorded operator, in the right module, and adds up."""

from __future__ import annotations

import inspect
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from modelprobe.cli.app import main
from modelprobe.cost.timing.layers import align, profiled
from modelprobe.cost.timing.layers.align import ProfiledPiece, aligned_pieces
from modelprobe.cost.timing.layers.profiled import BLOCK, MODULE_MARK, PASS_MARK, pass_trees, profiled_passes
from modelprobe.cost.timing.layers.times import BETWEEN, IDLE, reconciled
from modelprobe.report.blocks import Table
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace


def seen(net: nn.Module, *args: Tensor, blocks: int = 2) -> tuple[Trace, list[list[ProfiledPiece]]]:
    """The ledger of a forward on the CPU, and the pieces of profiled ones."""
    net.eval()
    ledger = trace(net, *args, device="real")
    with torch.inference_mode():
        found = profiled_passes(net, lambda: net(*args), lambda: None, blocks)
    assert len(found.trees) == blocks * (BLOCK - 1)
    return ledger, [aligned_pieces(ledger, tree) for tree in found.trees]


class Sleeper(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return x + 1


class Tied(nn.Module):
    """One module under two names, an operator of the model's own between, and a composite without a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.sleeper = Sleeper()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        return torch.einsum("ij,kj->ik", self.sleeper(x), x)


def test_every_recorded_operator_is_seen_once_and_times_add_up() -> None:
    ledger, passes = seen(Tied(), torch.rand(4, 8))
    for pieces in passes:
        assert sorted(index for piece in pieces for index in piece.ops) == list(range(len(ledger.ops)))
        assert [ledger.ops[piece.ops[0]].name for piece in pieces if piece.ops] == [p.operator for p in pieces if p.ops]
    found = reconciled(ledger, passes, 0.05, on_gpu=False).times("layer", None, None)
    assert (found.mapped, found.grouped, found.recorded) == (len(ledger.ops), 0, len(ledger.ops))
    assert sum(one.exclusive_s for one in found.layers) == pytest.approx(0.05)
    assert sum(one.seconds for one in found.operators) == pytest.approx(0.05)
    rows = {one.path: one for one in found.layers}
    assert rows[""].inclusive_s == pytest.approx(0.05)
    assert rows["first"].calls == 2
    table = next(block for block in found.blocks() if isinstance(block, Table))
    calls = [column.key for column in table.columns].index("calls")
    assert [row.cells[calls] for row in table.rows] == [1, 2, 1]
    assert rows["first"].macs == 2 * 4 * 8 * 8
    assert rows["sleeper"].exclusive_s > 0.02  # most of the pass, also where others use the machine
    between = next(one for one in found.operators if one.name == BETWEEN)
    assert between.seconds > 0.02


def test_the_model_keeps_no_mark() -> None:
    net = Tied()
    seen(net, torch.rand(4, 8), blocks=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_kernel_that_does_the_work_of_several_operators_has_them_all() -> None:
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    ledger = trace(net, torch.rand(2, 5, 16), device="real")
    with torch.inference_mode():
        trees = profiled_passes(net, lambda: net(torch.rand(2, 5, 16)), lambda: None, 1).trees
    pieces = aligned_pieces(ledger, trees[0])
    assert sorted(index for piece in pieces for index in piece.ops) == list(range(len(ledger.ops)))
    (fused,) = [piece for piece in pieces if len(piece.ops) > 1]
    assert fused.operator in ("aten._transformer_encoder_layer_fwd", "aten._native_multi_head_attention")
    found = reconciled(ledger, [pieces], 1.0, on_gpu=False).times("layer", None, None)
    assert found.grouped == len(fused.ops)
    assert next(one for one in found.layers if not one.path).macs == ledger.macs


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "vit_b_16"])
def test_operators_are_those_of_the_ledger_by_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each profiled operator has the shapes that the ledger has for the one it is mapped to."""
    torchvision = pytest.importorskip("torchvision")
    settings = {"image_size": 32} if name == "vit_b_16" else {}
    net = getattr(torchvision.models, name)(**settings).eval()
    image = torch.rand(1, 3, 32 if name == "vit_b_16" else 64, 32 if name == "vit_b_16" else 64)
    ledger = trace(net, image, device="real")
    compared = 0

    def checked(ops: Any, events: Any) -> Any:
        nonlocal compared
        found = matched(ops, events)
        for place, event in found:
            assert place is not None, event.name
            first = next(iter(shapes_of[event.start, event.name]), [])
            if first and ops[place].inputs:  # none of a list of tensors, as `cat` takes
                assert ops[place].inputs[0].shape == tuple(first), event.name
                compared += 1
        return found

    matched = align.matched
    monkeypatch.setattr(align, "matched", checked)
    stack, fast = profiled.ExitStack(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), stack:
            profiled._mark_modules(net, stack)
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as run, profiled._Mark(PASS_MARK):
                net(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    events = run.profiler.kineto_results.events()  # type: ignore[union-attr]
    shapes_of = {(event.start_ns(), event.name()): event.shapes() for event in events}
    pieces = aligned_pieces(ledger, pass_trees(events)[0])
    assert sorted(index for piece in pieces for index in piece.ops) == list(range(len(ledger.ops)))
    assert compared > 0.8 * len(ledger.ops)


@dataclass
class Kineto:
    """An event as torch's profiler gives it, in nanoseconds."""

    called: str
    start: int
    length: int
    number: int = 0
    caller: int = 0
    device: str = "CPU"

    def __getattr__(self, name: str) -> Callable[[], Any]:
        values = {
            "name": self.called, "start_ns": self.start, "duration_ns": self.length, "correlation_id": self.number,
            "linked_correlation_id": self.caller, "device_type": f"DeviceType.{self.device}", "start_thread_id": 1,
            "sequence_nr": -1,
        }  # fmt: skip
        return lambda: values[name]


def test_kernels_of_a_gpu_belong_to_the_operators_that_launched_them() -> None:
    ledger = trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.rand(1, 8), device="real")
    (whole,) = pass_trees([
        Kineto(PASS_MARK, 0, 10_000_000),
        Kineto(MODULE_MARK, 0, 9_000_000, 1),
        Kineto(f"{MODULE_MARK}0", 0, 2_000_000, 2),
        Kineto("aten::linear", 0, 1_900_000, 3),
        Kineto("aten::addmm", 100, 1_000_000, 4),
        Kineto(f"{MODULE_MARK}1", 3_000_000, 1_000_000, 5),
        Kineto("aten::relu", 3_000_000, 900_000, 6),
        Kineto("gemm", 4_000_000, 5_000_000, 90, 4, "CUDA"),
        Kineto("relu_kernel", 9_000_000, 1_000_000, 91, 6, "CUDA"),
        Kineto(f"{MODULE_MARK}0", 4_000_000, 5_000_000, 92, 2, "CUDA"),  # kineto draws marks on the GPU as well
    ])  # fmt: skip
    found = reconciled(ledger, [aligned_pieces(ledger, whole)], 8e-3, on_gpu=True).times("operator", None, None)
    times = {one.name: one.seconds for one in found.operators}
    assert times["aten.linear"] == pytest.approx(5e-3)
    assert times["aten.relu"] == pytest.approx(1e-3)
    assert times[IDLE] == pytest.approx(2e-3)  # 8 ms in all: the rest the GPU was given nothing to do
    assert math.fsum(times.values()) == pytest.approx(8e-3)


@pytest.mark.zoo
def test_the_command_shows_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["profile", "samples/models.py:TinyCNN", "--input", "32", "--seconds", "0.05"]
    assert main([*line, "--by", "operator", "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layers = found["layers"]["layers"]
    assert sum(one["exclusive_s"] for one in layers) == pytest.approx(found["median_s"], rel=1e-6)
    assert {one["path"] for one in layers} >= {"", "features", "features.0", "head"}
    assert main([*line, "--by", "layer", "--depth", "1"]) == 0
    assert "Exclusive" in capsys.readouterr().out
    assert main([*line, "--top", "2"]) == 0
    shown = capsys.readouterr()
    assert "features.0" in shown.out
    assert "USDT" not in shown.err  # the profiler's library keeps quiet


def test_a_prediction_has_no_layers_that_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "samples/models.py:TinyCNN", "--predict", "rtx4090", "--by", "layer"]) == 2
    assert "leave out --by" in capsys.readouterr().err


class Skipping(nn.Module):
    """Each layer runs half of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if random.random() < 0.5:
                x = x + layer(x)
        return x


@pytest.mark.zoo
def test_a_forward_that_differs_from_pass_to_pass_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "import random\nimport torch\nfrom torch import nn\n\n" + inspect.getsource(Skipping)
    (tmp_path / "net.py").write_text(source)
    line = ["profile", f"{tmp_path}/net.py:Skipping", "--input", "8x64", "--by", "layer", "--seconds", "0.2"]
    assert main([*line, "--threads", "1", "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layers = found["layers"]
    assert layers["alike"] < 0.75
    assert layers["mapped"] + layers["grouped"] <= layers["recorded"]
    assert any("not the same each time" in note["text"] for note in found["notes"])
