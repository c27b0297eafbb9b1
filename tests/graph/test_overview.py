"""Everything about one model: every section is there, from the answers of the commands, and the page needs nothing."""

from __future__ import annotations

import json
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


@pytest.mark.zoo
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


@pytest.mark.zoo
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


@pytest.mark.zoo
def test_a_network_without_class_maps_shows_its_outermost_layers(cli, tmp_path):
    place = tmp_path / "report.html"
    image = ROOT / "samples" / "shapes.png"
    answer = cli(
        "report", "ssdlite320_mobilenet_v3_large", "--image", str(image), "--weights", "random", "-o", str(place)
    )
    assert answer.code == 0, answer.err
    page = place.read_text()
    assert "<h1>ssdlite320_mobilenet_v3_large (torchvision)</h1>" in page
    assert "<h2>Layer activations</h2>" in page
    assert "Class activation maps: ssdlite320_mobilenet_v3_large takes a list of images" in page
    assert page.count("data:image/png;base64,") >= 3  # of the backbone's levels
    headline = page.split("<h2>Graph</h2>")[0]
    assert headline.count("Peak memory") == 1


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


PEAKS = {"kind": "cpu", "name": "a <machine>", "dtype": "float32", "threads": 1, "setting": "", "flops_per_s": 1e11,
         "bytes_per_s": 1e10, "launch_s": 1e-6}  # fmt: skip


def measured(place, path="features.0", **changes):
    layer = {"path": path, "cls": "Conv2d", "seconds": 2e-3, "share": 0.5, "operators": 1, "flops": 20_000_000,
             "bytes_moved": 1_000_000, "intensity": 20.0, "flops_per_s": 1e10, "roof_flops_per_s": 1e11,
             "arithmetic_s": 2e-4, "memory_s": 1e-4, "launch_s": 1e-6, "bound": "arithmetic", "left": 10.0}  # fmt: skip
    times = {"path": path, "calls": 1, "inclusive_s": 2e-3, "share": 0.5}
    found = {
        "schema": "modelprobe.profile/1", "model": "TinyCNN", "inputs": ["x"], "device": "cpu", "median_s": 4e-3,
        "layers": {"layers": [times], "operators": []},
        "roofline": {"peaks": PEAKS, "layers": [layer, {**layer, "path": "head", "intensity": 0.0, "left": None}]},
        **changes,
    }  # fmt: skip
    file = place / "times.json"
    file.write_text(json.dumps(found))
    return str(file)


@pytest.mark.zoo
def test_times_and_the_roofline(cli, tmp_path):
    place = tmp_path / "report.html"
    answer = cli("report", CNN, "--input", "32", "--times", measured(tmp_path), "-o", str(place))
    assert answer.code == 0, answer.err
    page = place.read_text()
    assert "Time and roofline" in page
    (circle,) = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', page)
    (roof,) = re.findall(r'<polyline points="([^"]+)"', page)
    ridge, peak = map(float, roof.split()[1].split(","))
    assert float(circle[0]) > ridge, "20 FLOPs per byte are right of the ridge, at 10"
    assert float(circle[1]) > peak, "a tenth of the peak is below it"
    assert "a &lt;machine&gt;" in page
    assert '<option value="time" selected>' in page
    assert "2.000 ms" in cli("report", CNN, "--input", "32", "--times", measured(tmp_path)).out


@pytest.mark.zoo
def test_other_files_hold_no_times(cli, tmp_path):
    step = {"roofline": None, "layers": {"phases": {"forward": 1.0}}}
    for changes, says in (
        ({"roofline": None}, "holds no times"), ({"median_s": "a"}, "is damaged"), (step, "of a training step"),
    ):  # fmt: skip
        answer = cli("report", CNN, "--input", "32", "--times", measured(tmp_path, **changes))
        assert answer.code == 2
        assert says in answer.err
    assert "says nothing of the modules" in cli("report", CNN, "--times", measured(tmp_path, path="other")).err
