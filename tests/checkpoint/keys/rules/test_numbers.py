"""Files whose names and shapes fit, and whose numbers are no weights of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from modelprobe.checkpoint.keys.draft import PlanOptions
from modelprobe.errors import CheckFailed
from modelprobe.model.weights.load import load_state_dict_for
from tests.command_line import CommandLine

WEIGHTS = {"0.weight": torch.randn(4, 4), "0.bias": torch.randn(4), "1.weight": torch.randn(3, 4)}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, bias=False))


def refused(state: dict[str, torch.Tensor], tmp_path: Path) -> str:
    """Why a file with these tensors too does not load."""
    torch.save({**WEIGHTS, **state}, tmp_path / "x.pt")
    with pytest.raises(CheckFailed) as caught:
        load_state_dict_for(network(), tmp_path / "x.pt")
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"0.weight": WEIGHTS["0.weight"] * (1 + 2j)}, "1 tensor is complex"),
        ({"0.weight": torch.ones(4, 4, dtype=torch.int8), "0.SCB": torch.ones(4)}, "int8, with 0.SCB beside it"),
        ({"0.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "0.weight_scale_inv": torch.ones(1)}, "float8_e4m3fn"),
        ({name: WEIGHTS[name].T for name in ("0.weight", "1.weight")}, "3x4 expected; 0.weight, which is square"),
    ],
)  # fmt: skip
def test_what_is_no_weight_is_not_loaded(state, text, tmp_path):
    assert text in refused(state, tmp_path)


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_quantized_tensors_are_not_loaded(tmp_path):
    state = {"0.weight": torch.quantize_per_tensor(WEIGHTS["0.weight"], 0.1, 0, torch.qint8)}
    assert "0.weight is quantized (qint8)" in refused(state, tmp_path)


def test_scales_may_not_be_dropped_from_their_weights(tmp_path):
    torch.save({**WEIGHTS, "0.weight": torch.ones(4, 4, dtype=torch.int8), "0.SCB": torch.ones(4)}, tmp_path / "x.pt")
    with pytest.raises(CheckFailed, match="SCB beside it"):
        load_state_dict_for(network(), tmp_path / "x.pt", options=PlanOptions(drop=("0.SCB",)))


def test_integers_load_with_a_warning(tmp_path):
    torch.save({**WEIGHTS, "0.bias": torch.ones(4, dtype=torch.int8)}, tmp_path / "x.pt")
    state, plan = load_state_dict_for(network(), tmp_path / "x.pt")
    assert state["0.bias"].tolist() == [1, 1, 1, 1]
    assert "1 tensor is int8 where the model has float32" in plan.assumed[0]


def test_keys_says_that_it_does_not_fit(capsys, tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, bias=False))\n"
    )
    torch.save({**WEIGHTS, "0.weight": WEIGHTS["0.weight"] * 1j}, tmp_path / "x.pt")
    found = CommandLine(capsys)("keys", str(tmp_path / "x.pt"), "--arch", f"{source}:make")
    assert found.code == 1
    assert "the imaginary parts would be lost" in " ".join(found.out.split())
