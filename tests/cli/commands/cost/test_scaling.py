"""`scaling` with lists of sizes and batches: points, exact laws, the crossover, the plot."""

from __future__ import annotations

import json

import pytest

from tests.command_line import SAMPLES, CommandLine, said

NETS = """
import torch
from torch import nn

class Attention(nn.Module):
    '''Per token one linear map of 64 x 64, then every token with every other, twice.'''
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)
    def forward(self, x):
        x = self.linear(x)
        return (x @ x.transpose(1, 2)) @ x

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
    def forward(self, x):
        return self.linear(x[:, : x.shape[1] // 5 * 5])

class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
    def forward(self, x):
        return self.linear(x) if bool(x.sum() > 0) else self.linear(x) + 1
"""


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return str(path)


@pytest.fixture
def data(cli):
    def ask(*arguments):
        answer = cli("scaling", *arguments, "-f", "json")
        assert (answer.code, answer.err) == (0, "")
        return json.loads(answer.out)

    return ask


@pytest.mark.zoo
def test_convolutions_grow_with_the_square(data):
    found = data(f"{SAMPLES}:TinyCNN", "--input", "32,64,128")
    # s x s x 8 x 27 + (s / 2)^2 x 16 x 72 = 504 s^2; 160 for the head
    assert [point["macs"] for point in found["points"]] == [504 * s * s + 160 for s in (32, 64, 128)]
    (law,) = found["laws"]
    assert (law["variable"], law["step"], law["offset"]) == ("size", 16, 0)
    assert law["macs"] == ["160", "0", str(504 * 16 * 16)]
    assert set(law["proven_at"]) >= {128}
    assert not set(law["proven_at"]) & set(law["found_at"])
    assert found["crossover"] is None


@pytest.mark.zoo
def test_batches_and_sizes_are_multiplied(data):
    found = data(f"{SAMPLES}:TinyCNN", "--input", "32,64", "--batch", "1,3")
    assert [(point["size"], point["batch"]) for point in found["points"]] == [(32, 1), (32, 3), (64, 1), (64, 3)]
    by = {law["variable"]: law for law in found["laws"]}
    assert by["batch"]["macs"] == ["0", str(504 * 32 * 32 + 160)]
    assert found["points"][1]["macs"] == 3 * found["points"][0]["macs"]


@pytest.mark.zoo
def test_attention_overtakes_the_rest(data, nets):
    found = data(f"{nets}:Attention", "--input", "x=1x8x64,1x16x64")
    (law,) = found["laws"]
    # N x 64 x 64 for the map, 2 x N x N x 64 between tokens
    assert (law["step"], law["macs"], law["attention_macs"]) == (1, ["0", "4096", "128"], ["0", "0", "128"])
    # 128 N^2 > 4096 N from N = 33 on
    assert found["crossover"] == {
        "size": 33,
        "macs": 4096 * 33 + 128 * 33**2,
        "attention_macs": 128 * 33**2,
        "verified": True,
    }


@pytest.mark.zoo
def test_no_law_is_said(data, nets):
    found = data(f"{nets}:Steps", "--input", "x=1x10x4,1x11x4")
    assert [point["macs"] for point in found["points"]] == [160, 160]
    assert found["laws"] == []
    assert "no polynomial" in found["notes"][-1]["text"]
    several = data(f"{nets}:Steps", "--input", "x=1x10x4,2x15x4")
    assert "differ in more than one number" in several["notes"][-1]["text"]


def test_a_model_that_needs_values_is_not_run_more_often_than_asked(data, nets):
    found = data(f"{nets}:Reads", "--input", "x=1x2x4,1x3x4")
    assert [point["macs"] for point in found["points"]] == [32, 48]
    assert found["laws"] == []
    assert "every size is computed for real" in found["notes"][-1]["text"]


@pytest.mark.zoo
def test_what_a_person_reads(cli, golden):
    answer = cli("scaling", f"{SAMPLES}:TinyCNN", "--input", "32,64,96", "--batch", "1,8")
    assert answer.code == 0
    golden("scaling.TinyCNN.80.txt", answer.out)


@pytest.mark.zoo
def test_plot(cli, nets, tmp_path):
    path = tmp_path / "plot.png"
    answer = cli("scaling", f"{nets}:Attention", "--input", "x=1x8x64,1x16x64", "--plot", str(path))
    assert answer.code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "plot.png" in answer.out
    again = cli("scaling", f"{nets}:Attention", "--input", "x=1x8x64,1x16x64", "--plot", str(path))
    assert again.code == 2
    assert "--force" in said(again)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--input", "3,224,224"), "looks like one shape | its sizes are separated by x: 3x224x224"),
        (("--input", "32,64", "--by", "kind"), "no such option: --by"),
        (("--input", "32"), "scaling needs several sizes or batches | list them: --input 224,256,288"),
        (("--batch", "0"), "a batch has at least one example"),
        (("--batch", "1,x"), "--batch '1,x' is not a number of examples"),
        (("--plot", "x.png"), "scaling needs several sizes"),
        (("--input", "32,64", "--plot", "x.pdf"), "--plot x.pdf is not a PNG"),
    ],
)
def test_refusals(cli, arguments, reason):
    answer = cli("scaling", f"{SAMPLES}:TinyCNN", *arguments)
    assert answer.code == 2
    assert reason in said(answer)
