"""`modelprobe memory`: the fields that scripts read, and questions that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelprobe.cli.app import main

NET = "samples/models.py:TinyCNN"


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["memory", NET, *arguments, "-f", "json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.zoo
def test_fields_that_scripts_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--train", "--optimizer", "adamw", "--device", "cuda", "--fits", "32MiB", "--context", "1MiB")
    assert {"peak_bytes", "parts", "reserved_bytes", "largest_batch"} <= set(found)
    assert sum(found["parts"].values()) == found["peak_bytes"]  # type: ignore[attr-defined]


@pytest.mark.zoo
def test_the_largest_batch_fits_and_the_next_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    batch = asked(capsys, "--fits", "8MiB")["largest_batch"]
    assert asked(capsys, "--batch", str(batch))["peak_bytes"] <= 8 * 2**20  # type: ignore[operator]
    assert asked(capsys, "--batch", str(int(str(batch)) + 1))["peak_bytes"] > 8 * 2**20  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--fits", "1KiB"), "weights and buffers alone"),
        (("--fits", "a100-41"), "did you mean a100-40"),
        (("--fits", "1GiB", "--batch", "2"), "leave one of them out"),
        (("--train", "--freeze", "*"), "every parameter is frozen"),
        (("--optimizer", "adam"), "add --train"),
        (("--device", "tpu"), "tpu"),
        (("--plan", "1GiB", "--fits", "1GiB"), "leave --fits out"),
        (("--plan", "409"), "did you mean 4090"),
        (("--loss", "x.py:loss"), "add --train"),
        (("--train", "--loss", "loss"), "it must be file.py:function"),
        (("--train", "--loss", "samples/models.py:nothing"), "has no 'nothing'"),
        (("--train", "--loss", "samples/models.py:TinyCNN"), "is no function"),
        (("--batch", "0"), "0"),
        (("--input", "4x3x32x32", "--fits", "1GiB"), "--fits tries batches, and --input 4x3x32x32 has one of its own"),
        (("--fits", "2KiB"), "are too many too"),
        (("--fits", "5KiB"), "--dtype bfloat16 halves them"),
        (("--batch", "1,2", "--plot", "x.png"), "give one --batch"),
        (("--plot", "x.jpg"), "name it with .png"),
    ],
)
def test_wrong_questions_are_one_line(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", NET, *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert text in said.err


@pytest.mark.zoo
def test_a_device_by_name_is_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--fits", "a100-40", "--context", "39GiB")
    assert found["device"] == "cuda"
    assert found["reserved_bytes"] + found["context_bytes"] <= 40 * 2**30
    assert asked(capsys, "--fits", "1GiB")["device"] == "cpu"


def test_batches_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--batch", "1,4")
    alone = asked(capsys, "--batch", "4")
    assert found["batches"] == [1, 4]
    assert found["results"][1]["peak_bytes"] == alone["peak_bytes"]  # type: ignore[index]


def test_a_loss_of_ones_own_is_part_of_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "def loss(out):\n    wide = out.repeat(1, 500_000)\n    return wide.sin().sum()\n"
    )
    plain = asked(capsys, "--train")["peak_bytes"]
    wide = asked(capsys, "--train", "--loss", f"{tmp_path}/mine.py:loss")["peak_bytes"]
    assert wide > plain + 4 * 500_000  # type: ignore[operator]


@pytest.mark.zoo
def test_the_curve_as_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "--train", "--plot", f"{tmp_path}/curve.png")
    assert found["plot"] == f"{tmp_path}/curve.png"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.zoo
def test_a_plan_names_changes_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    whole = asked(capsys, "--train", "--batch", "8", "--optimizer", "adam")["peak_bytes"]
    found = asked(capsys, "--train", "--batch", "8", "--optimizer", "adam", "--plan", f"{int(str(whole)) * 3 // 4}B")
    assert not found["fits"]
    assert any(option["fits"] for option in found["options"])  # type: ignore[attr-defined]


@pytest.mark.zoo
def test_a_change_that_does_not_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.body = nn.Linear(8, 64)\n        self.head = nn.Linear(64, 8)\n\n"
        "    def forward(self, x):\n        if x.dtype != torch.float32:\n            raise TypeError('float32 only')\n"
        "        return self.head(self.body(x))\n"
    )
    line = ["memory", f"{tmp_path}/net.py:Net", "--input", "1x8", "--train", "--optimizer", "adam", "--plan", "9KiB"]
    assert main([*line, "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any("--dtype bfloat16 does not run" in note["text"] for note in found["notes"])
    assert {"--optimizer sgd"} in [set(option["changes"]) for option in found["options"]]
