"""Packages bring formulas through the entry point group; one that fails is named and harms nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FORMULAS = """
import modelprobe
import torch

torch.library.define("plugged::twice", "(Tensor x) -> Tensor")
torch.library.impl("plugged::twice", "default", lambda x: x * 2)
torch.library.register_fake("plugged::twice", lambda x: torch.empty_like(x))

def rule(x, *, out):
    return modelprobe.Cost(macs=7 * x.numel())
"""

NET = """
import torch, plugged

class Net(torch.nn.Module):
    def forward(self, x):
        return torch.ops.plugged.twice(x)
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
    return {**os.environ, "PYTHONPATH": str(folder)}


def flops(folder: Path, environment: dict[str, str]) -> dict:
    command = [sys.executable, "-m", "modelprobe", "flops", f"{folder}/net.py:Net", "--input", "x=3x5", "-f", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("plugged", "modelprobe.formula('plugged::twice')(rule)"),
        ("plugged:register", "def register(): modelprobe.formula('plugged::twice')(rule)"),
    ],
    ids=["module", "function"],
)
def test_formula_of_a_package(tmp_path: Path, value: str, code: str) -> None:
    found = flops(tmp_path, installed(tmp_path, {"plugged": value}, code))
    assert found["macs"] == 7 * 15
    assert found["uncounted"] == []


def test_a_package_that_fails_is_named(tmp_path: Path) -> None:
    # the second registers the operator again, the third is not there at all
    points = {"a": "plugged:register", "b": "plugged:register", "c": "missing_module"}
    code = "def register(): modelprobe.formula('plugged::twice')(rule)"
    found = flops(tmp_path, installed(tmp_path, points, code))
    assert found["macs"] == 7 * 15
    said = " ".join(note["text"] for note in found["notes"])
    assert "formulas of b (plugged:register) were not loaded: operator plugged::twice has a formula already" in said
    assert "formulas of c (missing_module) were not loaded: No module named 'missing_module'" in said
