"""The questions of `flops` beside the plain one, from the command line: good answers and refusals."""

from __future__ import annotations

import pytest

from tests.command_line import CommandLine, said

CAUSAL_NET = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)
"""


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


@pytest.mark.zoo
def test_causal_exact(cli, tmp_path):
    (tmp_path / "net.py").write_text(CAUSAL_NET)
    asked = ("flops", f"{tmp_path}/net.py:Net", "--input", "x=1x4x8", "-f", "csv")
    # 16 scores of 4 queries and 4 keys x (8 + 8); 10 of them on or below the diagonal
    assert ",256," in cli(*asked).out
    assert ",160," in cli(*asked, "--causal", "exact").out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--causal", "triangle"), "--causal 'triangle' is not known | choose one of dense, exact"),
        (("--causal", "exact", "--convention", "thop"), "--causal exact is not how thop counts"),
        (("--convention", "mine"), "--convention 'mine' is not known | choose one of modelprobe, torchvision"),
        (("--input", "224,256"), "flops counts one size, not a list | `modelprobe scaling` takes a list in --input"),
        (("--by", "colour"), "--by 'colour' is not known | choose one of module, operator"),
    ],
)
def test_refusals(cli, arguments, reason):
    answer = cli("flops", "resnet18", *arguments)
    assert answer.code == 2
    assert reason in said(answer)
