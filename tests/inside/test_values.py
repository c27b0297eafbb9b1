"""Values of operators in a recorded run, by hand; the first surprise, and its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelprobe.cli.app import main
from modelprobe.inside.values import WatchedValues
from modelprobe.tracing.recorder import trace


def followed(net: nn.Module, *args: Tensor) -> tuple[list[str], Any]:
    watched = WatchedValues()
    ledger = trace(net, *args, device="real", follow=watched)
    return [op.name for op in ledger.ops], watched.values


class Logs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        z = torch.log(y)  # the line
        return z.sum() + z


def test_values_and_the_first_nan() -> None:
    names, values = followed(Logs(), torch.tensor([-1.0, 1.0, 3.0]))
    assert names[:2] == ["aten.mul", "aten.log"]
    assert tuple(values[0]) == (-2.0, 6.0, pytest.approx(2.0), 0, "", "", "cpu")
    assert values[1].not_finite == 1
    assert values[1].minimum == pytest.approx(0.6931, abs=1e-4)
    assert values[1].said == "first NaN, from finite operands"
    line = values[1].line.partition(" ")[0].rpartition(":")[2]
    assert "# the line" in Path(__file__).read_text().splitlines()[int(line) - 1]
    assert [values[at].said for at in (2, 3)] == ["", ""]  # only the first


class Masked(nn.Module):
    """Attention scores under a mask of -inf; in `mask` a row that is masked as a whole."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return (x.masked_fill(torch.eye(2) > 0, float("-inf")) + self.mask).softmax(-1) * 2


def test_infinities_of_masks_are_meant_and_nan_from_them_is_not() -> None:
    upper = torch.tensor([[0.0, 0.0], [0.0, float("-inf")]])
    assert not any(one.said for one in followed(Masked(upper), torch.rand(2, 2))[1].values())
    names, values = followed(Masked(upper.T.flip(0)), torch.rand(2, 2))
    said = {names[at]: one.said for at, one in values.items() if one.said}
    assert said == {"aten.softmax": "first NaN, from operands with infinity"}


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_an_input_that_is_not_finite_is_said(value: float, what: str) -> None:
    _, values = followed(nn.Sequential(nn.ReLU(), nn.ReLU()), torch.tensor([1.0, value]))
    assert [values[at].said for at in sorted(values)] == [f"first {what}, from operands with {what}", ""]


class Widens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.ones(3, dtype=torch.float64).exp()).relu()


def test_the_first_result_of_another_type() -> None:
    names, values = followed(Widens(), torch.rand(3))
    said = {name: values[at].said for at, name in enumerate(names)}
    assert [text for text in said.values() if text] == ["first float64"]
    assert said["aten.ones"] == "first float64"


def test_a_composite_taken_apart_and_a_half_network_have_no_surprise() -> None:
    class Contracts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ij,kj->ik", x, x)

    names, values = followed(Contracts(), torch.ones(2, 3))
    assert values[len(names) - 1].maximum == 3
    net = nn.Linear(3, 3).bfloat16()
    assert not any(one.said for one in followed(net, torch.rand(2, 3).bfloat16())[1].values())


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[dict[str, Any]], str]:
    assert main([*words, "-f", "jsonl"]) == 0
    shown = capsys.readouterr()
    return [json.loads(line) for line in shown.out.splitlines()], shown.err


@pytest.mark.zoo
def test_lines_of_json_of_a_run_with_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    target = "samples/models.py:DigitCNN"
    rows, err = told(
        capsys, "trace", target, "--image", "samples/digit_b.png", "--weights", "samples/digit_cnn.pth",
        "--operator", "conv*",
    )  # fmt: skip
    assert {row["operator"] for row in rows} == {"aten.conv2d"}
    assert all(row["minimum"] < row["mean"] < row["maximum"] for row in rows)
    assert "random" not in err
    rows, err = told(capsys, "trace", "samples/models.py:TinyCNN", "--input", "32", "--device", "cpu")
    assert len(rows) == 8
    assert {row["device"] for row in rows} == {"cpu"}
    assert "The input is random numbers" in err
    assert "The weights are random" in err
    rows, _ = told(capsys, "trace", "samples/models.py:TinyCNN", "--input", "32")
    assert rows[0]["minimum"] is None
    assert rows[0]["device"] == "meta"


def test_an_image_is_all_of_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "samples/models.py:DigitCNN", "--image", "samples/digit_b.png", "--input", "32"]) == 2
    assert "--image says all of the input" in capsys.readouterr().err
