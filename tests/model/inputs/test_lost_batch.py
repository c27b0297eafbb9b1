"""`--batch` and `--fits` of models whose input has no batch axis: said, instead of a figure for something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import CommandLine, said

NETS = """
import torch
from torch import nn

class First(nn.Module):  # takes one example of however many
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return self.layer(x[0])

class Each(First):
    def forward(self, x):
        return self.layer(x)

class Turned(First):  # examples stand in the second axis
    def forward(self, x):
        return self.layer(x).unsqueeze(0)

class Given(First):
    modelprobe_inputs = torch.zeros(8)
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS, encoding="utf-8")
    return CommandLine(capsys)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "lost"), [("First", True), ("Each", False), ("Turned", False)])
def test_a_batch_that_no_output_has(cli: CommandLine, name: str, lost: bool) -> None:
    for asked, batch in (("flops", 3), ("memory", 7)):
        how = ("--batch", "3") if asked == "flops" else ("--fits", "1MB")
        answer = cli(asked, f"nets.py:{name}", "--input", "1x8", *how, "-f", "json")
        texts = [note["text"] for note in json.loads(answer.out)["notes"] if note["level"] == "warning"]
        text = f"No output has an axis of {batch}, the batch: the first axis of the input may be no batch of examples."
        assert (text in texts) is lost
    one = json.loads(cli("flops", f"nets.py:{name}", "--input", "1x8", "--batch", "1", "-f", "json").out)
    assert not one["notes"]


def test_a_fixed_input_has_its_own_batch(cli: CommandLine) -> None:
    refused = said(cli("memory", "nets.py:Given", "--fits", "1GB"))
    assert refused.startswith("--fits tries batches, and Given.modelprobe_inputs has one of its own | ")
    assert "--batch cannot change Given.modelprobe_inputs" in said(cli("flops", "nets.py:Given", "--batch", "2"))
