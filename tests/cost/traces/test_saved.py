"""Trace files: the same answer as the model's, without torch; files that are cut, foreign, or contradict themselves."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelprobe.cli.app import main
from modelprobe.cost.traces.saved import load_forward, load_memory, load_training
from modelprobe.errors import BadInput
from modelprobe.files.recording import FORMAT, MAGIC

CNN = "samples/models.py:TinyCNN"
QUESTIONS = {
    # name -> the command, what only the model can be asked, what the file can be asked as well
    "flops": (["flops", CNN, "--input", "32"], []),
    "by kind": (["flops", "samples/models.py:TinyAttention"], ["--by", "kind"]),
    "convention": (["flops", CNN], ["--convention", "ptflops"]),
    "causal": (["flops", "samples/models.py:TinyAttention"], ["--causal", "exact"]),
    "summary": (["summary", CNN, "--mode", "train", "--batch", "2"], ["--depth", "2"]),
    "training": (["training", CNN], ["--optimizer", "adam"]),
    "memory": (["memory", CNN, "--batch", "2"], []),
    "memory of a step": (["memory", CNN, "--train", "--optimizer", "adam", "--device", "cuda"], ["--context", "1GiB"]),
    "a detector": (["flops", "ssdlite320_mobilenet_v3_large"], []),
}

HEAD = MAGIC + str(FORMAT).encode() + b"\n"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*line: str) -> dict[str, Any]:
        assert main([*line, "-f", "json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.mark.zoo
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_file_answers_as_its_model_does(name: str, told: Any, tmp_path: Path) -> None:
    line, others = QUESTIONS[name]
    file = str(tmp_path / "run.mptrace")
    whole = told(*line, *others, "--save-trace", file)
    assert told(line[0], file, *others) == whole


@pytest.mark.zoo
def test_a_run_that_is_listed_is_kept(told: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "run.mptrace")
    assert main(["trace", CNN, "--operator", "conv*", "-o", file]) == 0
    assert "aten.conv2d" in capsys.readouterr().out
    assert told("trace", file) == told("trace", CNN)
    assert told("flops", file) == told("flops", CNN)


@pytest.mark.zoo
def test_no_torch(tmp_path: Path) -> None:
    file = str(tmp_path / "run.mptrace")
    assert main(["flops", CNN, "--save-trace", file]) == 0
    code = (
        "import sys; from modelprobe.cli.app import main; "
        f"codes = [main([name, {file!r}]) for name in ('flops', 'summary', 'trace')]; "
        "assert codes == [0, 0, 0], codes; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("files")
    found = {}
    for name in ("flops", "training", "memory"):
        file = home / f"{name}.mptrace"
        assert main([name, CNN, "--save-trace", str(file)]) == 0
        found[name] = file.read_bytes()
    return found


def packed(values: Any) -> bytes:
    return HEAD + zlib.compress(json.dumps(values).encode())


def values_of(data: bytes) -> Any:
    return json.loads(zlib.decompress(data.partition(b"\n")[2]))


BAD = {
    "another version": (MAGIC + b"99\nxx", "is a trace of format 99"),
    "no trace": (b"PK\x03\x04", "is no trace of modelprobe"),
    "empty": (b"", "is no trace of modelprobe"),
    "no zlib": (HEAD + b"xxxx", "is damaged"),
    "not JSON": (HEAD + zlib.compress(b"{"), "is damaged"),
    "deep": (HEAD + zlib.compress(b"[" * 200_000), "is damaged"),
    "a list": (packed([]), "it has no sections"),
    "nothing in it": (packed({"sections": {}}), "it holds: nothing"),
    "another shape": (packed({"sections": {"forward": [1, 2]}}), "is damaged: forward"),
    "a bomb": (HEAD + zlib.compress(bytes(2**30 + 10)), "is larger than a trace may be"),
}


@pytest.mark.zoo
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, text = BAD[name]
    (tmp_path / "x.mptrace").write_bytes(data)
    assert main(["flops", str(tmp_path / "x.mptrace")]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert text in said.err
    assert len(said.err.splitlines()) <= 3


@pytest.mark.zoo
def test_cut_files(files: dict[str, bytes], tmp_path: Path) -> None:
    file = tmp_path / "x.mptrace"
    for length in range(0, len(files["flops"]) - 1, 97):
        file.write_bytes(files["flops"][:length])
        with pytest.raises(BadInput):
            load_forward(str(file))
    file.write_bytes(files["flops"] + b"x")
    with pytest.raises(BadInput, match="something follows its end"):
        load_forward(str(file))


def walk(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Places of values, lists and what is in them."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from walk(item, (*path, at))


@pytest.mark.zoo
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), other=st.sampled_from([-1, 10**30, None, "x", [], True, 0.5, {}]))
def test_any_value_may_be_another(files: dict[str, bytes], tmp_path: Path, seed: int, other: Any) -> None:
    """Read as if nothing were wrong, or refused in one line: no other exception."""
    draw = random.Random(seed)
    name, read = draw.choice([("flops", load_forward), ("training", load_training), ("memory", load_memory)])
    values = values_of(files[name])
    place = draw.choice(list(walk(values)))
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = other
    file = tmp_path / "x.mptrace"
    file.write_bytes(packed(values))
    with suppress(BadInput):
        read(str(file))


@pytest.mark.zoo
def test_sizes_that_do_not_fit_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    values = values_of(files["flops"])
    ops = values["sections"]["forward"][1]
    ops[0][5][0][4] = 12  # the bytes of an input
    file = tmp_path / "x.mptrace"
    file.write_bytes(packed(values))
    with pytest.raises(BadInput, match=r"contradicts itself: a tensor of aten\.conv2d"):
        load_forward(str(file))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["flops", "{}", "--input", "224"], "--input cannot change"),
        (["flops", "{}", "--set", "a=1", "--fused"], "--fused, --set cannot change"),
        (["flops", "{}", "--convention", "ptflops"], "holds no calls of functions"),
        (["training", "{}"], "it holds: forward"),
        (["memory", "{}"], "`modelprobe memory TARGET --save-trace FILE` records it"),
        (["flops", "nowhere.mptrace"], "cannot be read"),
        (["flops", CNN, "--save-trace", "x.bin"], "is not named as a trace"),
        (["flops", CNN, "--save-trace", "{}"], "exists"),
        (["memory", CNN, "--batch", "1,2", "--save-trace", "x.mptrace"], "is to hold one run"),
    ],
)
def test_wrong_questions(
    line: list[str], text: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.mptrace"
    file.write_bytes(files["flops"])
    assert main([word.format(file) for word in line]) == 2
    said = capsys.readouterr()
    assert text in said.err
    assert file.read_bytes() == files["flops"]
