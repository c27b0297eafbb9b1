"""Packages bring formulas through the entry point group; one that fails is named and harms nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples import ROOT

FORMULAS = """
import modelprobe
import torch

for name in ("plugged::twice", "plugged::thrice"):
    torch.library.define(name, "(Tensor x) -> Tensor")
    torch.library.impl(name, "default", lambda x: x * 2)
    torch.library.register_fake(name, lambda x: torch.empty_like(x))

def rule(x, *, out):
    return modelprobe.Cost(macs=7 * x.numel())
"""

NET = """
import torch, plugged

class Net(torch.nn.Module):
    def forward(self, x):
        return torch.ops.plugged.thrice(torch.ops.plugged.twice(x))
"""


def installed(folder: Path, points: dict[str, str], code: str) -> dict[str, str]:
    """A package beside its metadata, as pip leaves it; the environment of a process that finds it."""
    (folder / "plugged.py").write_text(FORMULAS + code)
    (folder / "net.py").write_text(NET)
    info = folder / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[modelprobe.formulas]\n" + "\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


@pytest.mark.zoo
def test_formulas_of_packages(tmp_path: Path) -> None:
    """By importing a module and by calling a function; one that registers an operator again and one that is not there
    are named, and do no harm."""
    code = """
modelprobe.formula('plugged::twice')(rule)

def register():
    modelprobe.formula('plugged::thrice')(rule)
"""
    points = {"a": "plugged", "b": "plugged:register", "c": "plugged:register", "d": "missing_module"}
    command = [sys.executable, "-m", "modelprobe", "flops", f"{tmp_path}/net.py:Net", "--input", "x=3x5", "-f", "json"]
    environment = installed(tmp_path, points, code)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["macs"] == (7 + 7) * 15  # both operators once, on 3 x 5 elements
    assert found["uncounted"] == []
    text = " ".join(note["text"] for note in found["notes"])
    assert "formulas of c (plugged:register) were not loaded: operator plugged::thrice has a formula already" in text
    assert "formulas of d (missing_module) were not loaded: No module named 'missing_module'" in text
