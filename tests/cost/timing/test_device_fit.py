"""`profile --fit`: constants are found again from the times that they predict; files that cannot be fitted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from modelprobe.cost.timing.device_fit import fit_device
from modelprobe.cost.timing.predict import find_device, predict_time, read_device
from modelprobe.model.build import TargetRequest, load_model, record
from tests.command_line import SAMPLES, CommandLine, said

NAMES = (
    "resnet18",
    "resnet34",
    "mobilenet_v2",
    "vgg11",
    "squeezenet1_0",
    "alexnet",
    "timm:test_vit",
    "shufflenet_v2_x0_5",
)
HEAD = "model,batch,step_ms\n"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Times as the constants of an RTX 4090 give them."""
    lines, device = [], find_device("rtx4090")
    for name in NAMES:
        for batch in (64, 256):
            seconds = predict_time(record(load_model(TargetRequest(name, batch=batch))), device).predicted_s
            lines.append(f"{name},{batch},{seconds * 1e3}\n")
    path = tmp_path_factory.mktemp("fit") / "mine.csv"
    path.write_text(HEAD + "".join(lines))
    return path


@pytest.mark.zoo
def test_the_constants_predict_the_times_they_were_fitted_to(table: Path, cli: CommandLine, tmp_path: Path) -> None:
    found = fit_device(table)
    assert found.errors[0] < 0.05
    assert found.interval[0] < 1 < found.interval[1]
    assert found.batches == (64, 256)
    known = asdict(find_device("rtx4090").rates)
    assert found.convolution_macs_per_s == pytest.approx(known["convolution_macs_per_s"], rel=0.2)
    assert found.bytes_per_s == pytest.approx(known["bytes_per_s"], rel=0.2)
    file = tmp_path / "mine.json"
    assert cli("profile", "--fit", str(table), "-o", str(file)).code == 0
    device = read_device(file)
    assert asdict(device.rates)["launch_s"] == found.launch_s
    assert device.interval == found.interval
    trace = record(load_model(TargetRequest("resnet50", batch=128)))
    ratio = predict_time(trace, device).predicted_s / predict_time(trace, find_device("rtx4090")).predicted_s
    assert ratio == pytest.approx(1, abs=0.1)
    answer = cli("profile", "resnet18", "--batch", "64", "--device-spec", str(file), "-f", "json")
    assert json.loads(answer.out)["device"] == "mine"


@pytest.mark.zoo
def test_constants_that_no_row_tells_are_named(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text(HEAD + "".join(f"{SAMPLES}:TinyCNN,{64 * n},{0.1 + n}\n" for n in range(1, 9)))
    found = fit_device(path)
    assert "attention_macs_per_s" in found.undetermined
    assert any("No row depends on" in note.text and "2020" in note.text for note in found.notes)


ROWS = "".join(f"resnet18,{n},{n}\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "lacks a column, or rows"),
        ("model,batch\nresnet18,1\n", "lacks a column"),
        (HEAD + "resnet18,8,3\n", "has 1 times, and eight constants"),
        (HEAD + ROWS + "resnet18,8,-3\n", "line 10: step_ms '-3' is no time"),
        (HEAD + ROWS + "resnet18,8,much\n", "line 10: step_ms 'much' is no time"),
        (HEAD + ROWS + "resnet18,8,nan\n", "is no time"),
        (HEAD + ROWS + "resnet18,0,3\n", "line 10: no model, or a batch that is none"),
        (HEAD + ROWS + "resnet19,8,3\n", "line 10: "),
        ("device,model,batch,median_s\na,resnet18,8,1\nb,resnet18,8,1\n", "has times of 2 devices"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_cannot_be_fitted(cli: CommandLine, tmp_path: Path, content: Any, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = cli("profile", "--fit", str(path))
    assert answer.code == 2
    assert text in said(answer)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (("resnet18", "--fit", "x.csv"), "--fit takes measured times from a file"),
        (("--fit", "x.csv", "--train"), "--fit takes measured times"),
        (("--fit", "x.csv", "--predict", "rtx4090"), "--fit takes measured times"),
        (("--fit", "nowhere.csv"), "cannot be read"),
        ((), "missing argument 'TARGET'"),
    ],
)
def test_questions_beside_a_fit(cli: CommandLine, line: tuple[str, ...], text: str) -> None:
    answer = cli("profile", *line)
    assert answer.code == 2
    assert text in said(answer)


@pytest.mark.parametrize(
    ("key", "value"),
    [("interval", [2, 0.5]), ("interval", 3), ("interval", [0.5, "a"]), ("batches", [0, 4]), ("batches", [8, 4])],
)
def test_absurd_intervals_and_batches_are_refused(cli: CommandLine, tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**asdict(find_device("rtx4090").rates), key: value}))
    answer = cli("profile", f"{SAMPLES}:TinyCNN", "--device-spec", str(path))
    assert answer.code == 2
    assert f"{key} is" in said(answer)
