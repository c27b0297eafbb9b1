"""Everything about one model: every section is there, from the answers of the commands, and the page needs nothing."""

from __future__ import annotations

import re

import pytest

from modelprobe.graph.overview.curve import memory_curve
from tests.command_line import SAMPLES, CommandLine
from tests.samples import ROOT

CNN = f"{SAMPLES}:TinyCNN"


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


def test_the_page(cli, tmp_path):
    place = tmp_path / "report.html"
    answer = cli("report", CNN, "--input", "32", "--sizes", "32,64", "-o", str(place))
    assert answer.code == 0, answer.err
    page = place.read_text()
    titles = re.findall(r"<summary><h2>(.*?)</h2>", page)
    assert titles == [
        "Headline", "Graph", "Where the cost lies", "Layers", "Operators", "Memory", "Parameters", "Buffers",
        "Scaling", "Environment",
    ]  # fmt: skip
    assert "://" not in page.replace("http://www.w3.org", "")
    assert page.count("<script>") == 3
    assert 'class="memory-curve"' in page
    assert f"{221_184 + 294_912 + 160:,}" in page


def test_class_maps_are_embedded_and_no_directory_is_named(cli, tmp_path):
    place = tmp_path / "report.html"
    digits, image = ROOT / "samples" / "digit_cnn.pth", ROOT / "samples" / "digit_b.png"
    answer = cli(
        "report", f"{SAMPLES}:DigitCNN", "--weights", str(digits), "--image", str(image), "--input", "1x64x64",
        "-o", str(place),
    )  # fmt: skip
    assert answer.code == 0, answer.err
    page = place.read_text()
    assert "Grad-CAM for 9" in page
    assert "data:image/png;base64," in page
    assert "modelprobe-" not in page


def test_a_recorded_run(cli, tmp_path):
    run, place = tmp_path / "run.mptrace", tmp_path / "report.html"
    assert cli("flops", CNN, "--save-trace", str(run)).code == 0
    answer = cli("report", str(run), "-o", str(place))
    assert answer.code == 0, answer.err
    assert "The recorded run holds no memory" in place.read_text()
    assert cli("report", str(run), "--sizes", "32,64").code == 2


def test_one_size_is_refused(cli):
    answer = cli("report", CNN, "--sizes", "32")
    assert answer.code == 2
    assert "is one size" in answer.err


def test_a_curve_without_moments_is_empty():
    assert memory_curve(()) == ""
