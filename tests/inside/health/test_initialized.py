"""How layers are initialized, told from their values."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import modelprobe
from modelprobe.inside.health.initialized import TOO_FEW, initialization_of
from modelprobe.model.build import TargetRequest, load_model


def test_a_network_of_torchvision() -> None:
    found = initialization_of(load_model(TargetRequest("resnet18", weights="random")))
    rows = {one.name: one for one in found.parameters}
    assert (rows["conv1.weight"].fan_in, rows["conv1.weight"].fan_out) == (147, 3136)  # 3 x 7 x 7, 64 x 7 x 7
    assert rows["layer4.0.conv2.weight"].fits == "He normal, fan-out"
    assert (rows["bn1.weight"].fits, rows["bn1.bias"].fits) == ("ones", "zeros")
    assert (rows["fc.weight"].fits, rows["fc.bias"].fits) == ("torch's default, uniform",) * 2
    named = [one for one in found.parameters if one.name.endswith("weight") and one.fan_in]
    assert sum(one.fits.startswith(("He normal", "torch")) for one in named) >= 0.8 * len(named)


NETS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LSTM(16, 64, 2, bidirectional=True), nn.GRUCell(16, 64), nn.RNN(16, 64), nn.Linear(64, 10))

net = Net()
"""


def test_recurrent_layers_are_drawn_by_their_width(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    for name in ("Net", "net"):
        found = initialization_of(load_model(TargetRequest(f"{tmp_path}/nets.py:{name}", weights="as built")))
        fits = {one.name: one.fits for one in found.parameters}
        assert fits.pop("3.bias") == TOO_FEW
        assert set(fits.values()) == {"torch's default, uniform"}


def test_a_file_with_a_recurrent_layer_that_never_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LSTM(16, 64), nn.Linear(64, 64))
    with torch.no_grad():
        net[1].weight.add_(torch.randn(64, 64) * 0.1)
        net[1].bias.add_(torch.randn(64))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    with torch.no_grad():
        for parameter in net[0].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    torch.save(net.state_dict(), tmp_path / "b.pth")
    found = [modelprobe.check_health(str(tmp_path / name)).findings for name in ("a.pth", "b.pth")]
    assert [(one.kind, one.where) for one in found[0]] == [("never trained", ("0",))]
    assert not found[1]
