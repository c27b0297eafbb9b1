"""What a notebook and a Python prompt show of a result, and what a first try may pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.errors import BadInput
from modelprobe.report.formats.html import fragment


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))


def test_one_line_and_the_report(net):
    found = modelprobe.count_flops(net, (1, 3, 8, 8))
    assert repr(found).startswith("<FlopsResult Sequential: cost of one forward pass: ")
    assert "\n" not in repr(found)
    assert str(found).startswith("Sequential: cost of one forward pass\n")
    assert found.macs == 36 * 4 * 27 + 288


def test_the_frame_has_every_row(net):
    frame = modelprobe.count_flops(net, (1, 3, 8, 8)).to_dataframe()
    assert list(frame["path"]) == ["", "0", "1", "2"]
    assert list(frame["depth"]) == [0, 1, 1, 1]
    assert frame["macs"].iloc[0] == frame["macs"].iloc[1:].sum()


def test_every_result_has_one_line():
    for found in (
        modelprobe.count_params(nn.Linear(2, 2)), modelprobe.list_buffers(nn.BatchNorm1d(2)),
        modelprobe.summarize(nn.Linear(2, 2), (1, 2)), modelprobe.estimate_memory(nn.Linear(2, 2), torch.zeros(1, 2)),
    ):  # fmt: skip
        assert repr(found).startswith(f"<{type(found).__name__} ")
        assert len(repr(found)) < 300


def test_a_trace_is_short(net):
    run = modelprobe.trace(net, (1, 3, 8, 8))
    assert repr(run) == "<Trace of Sequential: 3 operators, 4 calls of modules>"
    assert "recorded forward pass" in run._repr_html_()


def test_shapes_and_names():
    assert len(modelprobe.trace("resnet18").ops) == 69
    assert modelprobe.count_flops("resnet18", (2, 3, 64, 64)).inputs == ("x: 2x3x64x64 float32",)
    with pytest.raises(BadInput, match="takes shapes"):
        modelprobe.trace("resnet18", torch.zeros(1, 3, 64, 64))


def test_a_tuple_beside_a_tensor_is_an_argument():
    class Resize(nn.Module):
        def forward(self, x, size):
            return nn.functional.interpolate(x, size)

    run = modelprobe.trace(Resize(), torch.zeros(1, 3, 8, 8), (4, 4))
    assert run.outputs[0].shape == (1, 3, 4, 4)


def test_a_checkpoint_and_a_class_map(net, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    found = modelprobe.open_checkpoint(str(path))
    assert "4 tensors" in repr(found)
    assert "mp-table" in found._repr_html_()
    shown = modelprobe.ClassMap("gradcam", 1, 0.5, None, torch.rand(8, 8), torch.rand(2, 2))
    assert "data:image/png;base64," in shown._repr_html_()
    assert "\n" not in repr(shown)


def test_styles_outweigh_jupyter_s(net):
    styles = fragment(modelprobe.count_flops(net, (1, 3, 8, 8)).report()).partition("</style>")[0]
    assert ".mp.mp.mp th,.mp.mp.mp td{" in styles
    assert "float:none" in styles


def test_the_frame_has_every_level_and_the_screen_forty_rows():
    found = modelprobe.count_flops("resnet18", (1, 3, 64, 64))
    assert len(found.to_dataframe()) == len(found.rows) == 68
    assert found.to_dataframe()["path"].is_unique
    assert len(modelprobe.summarize("resnet18", (1, 3, 64, 64), folded=False).to_dataframe()) == 68
    printed = str(found)
    assert "49 more rows below depth 2 are not shown; the result and to_dataframe() hold them." in " ".join(
        printed.split()
    )
    assert found._repr_html_().count("<tr") == 1 + 19
    assert len(modelprobe.count_flops("resnet18", (1, 3, 64, 64), depth=1).rows) == 11
