"""How layers are initialized, told from their values."""

from __future__ import annotations

from modelprobe.inside.health.initialized import initialization_of
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
