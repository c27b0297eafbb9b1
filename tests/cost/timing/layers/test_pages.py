"""The trace for Perfetto and the flame graph: what stands in them, and that the page needs nothing else."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from modelprobe.cli.app import main
from modelprobe.cost.timing.layers.align import ProfiledPiece
from modelprobe.cost.timing.layers.flame import flame_page, frames_of
from modelprobe.cost.timing.layers.profiled import MODULE_MARK, PASS_MARK
from modelprobe.cost.timing.layers.times import reconciled
from modelprobe.tracing.recorder import trace

LINE = ["profile", "samples/models.py:TinyCNN", "--input", "32", "--seconds", "0.05", "--depth", "1"]


@pytest.mark.zoo
def test_the_trace_holds_three_passes_with_their_modules(tmp_path: Path) -> None:
    files = tmp_path / "trace.json", tmp_path / "trace.json.gz"
    for file in files:
        assert main([*LINE, "--trace", str(file)]) == 0
    for text in (files[0].read_bytes(), gzip.decompress(files[1].read_bytes())):
        events = json.loads(text)["traceEvents"]
        names = [event.get("name") for event in events]
        assert names.count(PASS_MARK) == 3
        assert names.count(f"{MODULE_MARK}features.0") == 3
        assert names.count("aten::conv2d") == 6
        assert str(tmp_path).encode() not in text


def test_frames_are_modules_as_they_call_each_other_with_operators_inside() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2))
    ledger = trace(net, torch.rand(1, 8))
    inner = {call.path: number for number, call in enumerate(ledger.calls)}
    pieces = [
        ProfiledPiece(inner["0.0"], "aten.linear", (0,), 3.0, 0, 0),
        ProfiledPiece(inner["0.1"], "aten.relu", (1,), 1.0, 0, 0),
        ProfiledPiece(inner["0"], "", (), 1.0, 0, 0),
        ProfiledPiece(inner["1"], "aten.linear", (2,), 5.0, 0, 0),
    ]
    times = reconciled(ledger, [pieces], 10.0, on_gpu=False)
    root = frames_of(times)
    assert (root.seconds, root.flops) == (10.0, ledger.flops)
    first, last = root.inside.values()
    assert (first.path, first.seconds, last.path, last.seconds) == ("0", 5.0, "1", 5.0)
    assert [(frame.path, frame.seconds) for frame in first.inside.values()] == [("0.0", 3.0), ("0.1", 1.0)]
    page = flame_page(times)
    places = re.findall(r'title="([^"]*)" data-l="([\d.]+)" data-w="([\d.]+)"', page)
    assert [(float(left), float(width)) for _, left, width in places][:3] == [(0, 1), (0, 0.5), (0, 0.3)]
    assert "0.0: aten.linear (matmul): 3.000 s, 30.0%, called x1" in places[3][0]


@pytest.mark.zoo
def test_the_flame_graph_loads_nothing_and_escapes_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential()
    net.add_module("<script>alert(1)</script>", nn.Linear(2, 2))
    ledger = trace(net, torch.rand(1, 2))
    page = flame_page(reconciled(ledger, [[ProfiledPiece(1, "aten.linear", (0,), 1.0, 0, 0)]], 1.0, on_gpu=False))
    assert "<script>alert" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|src=|href=", page)
    file = tmp_path / "flame.html"
    assert main([*LINE, "--flame", str(file)]) == 0
    assert "features.0" in file.read_text()
    capsys.readouterr()
    assert main([*LINE, "--flame", str(file)]) == 2  # before anything is timed
    assert "--force" in capsys.readouterr().err
    assert main([*LINE, "--flame", str(tmp_path / "flame.pdf")]) == 2
    assert "name it with .html" in capsys.readouterr().err


@pytest.mark.zoo
def test_what_tensorboard_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    line = ["profile", "samples/models.py:TinyCNN", "--input", "16", "--seconds", "0.1", "--threads", "1"]
    beside = tmp_path / "trace.json.gz"  # of the same passes: torch exports them once only
    assert main([*line, "--tensorboard", str(tmp_path / "runs"), "--trace", str(beside), "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    (median,) = events.Scalars("profile/median_s")
    assert median.value == pytest.approx(found["median_s"])
    assert len(events.Scalars("profile/samples_s")) == len(found["samples_s"])
    assert events.Scalars("exclusive_s/head")[0].value > 0
    assert "**Median**" in events.Tensors("profile/report/text_summary")[0].tensor_proto.string_val[0].decode()
    trace = json.loads((tmp_path / "runs" / "TinyCNN.pt.trace.json").read_text())
    assert any(event.get("name") == "aten::conv2d" for event in trace["traceEvents"])
    assert json.loads(gzip.decompress(beside.read_bytes())) == trace
    (tmp_path / "file").write_text("")
    assert main([*line, "--tensorboard", str(tmp_path / "file")]) == 2
    assert "--tensorboard names a directory" in capsys.readouterr().err
