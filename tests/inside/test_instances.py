"""`health` and `diverge` of a model that a file made when it was imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelprobe.cli.app import main

FILE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.a(x).relu())

net = Net()
"""


@pytest.mark.zoo
def test_an_instance_keeps_its_weights_and_is_the_same_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets.py").write_text(FILE)
    target = f"{tmp_path}/nets.py:net"
    assert main(["health", target, "--input", "16x8", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    assert main(["diverge", target, target, "--input", "16x8", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "equal"
