"""Hostile names and odd terminals in the commands for weight files. Numbered as in the project's list.

Names of tensors, classes, dtypes, metadata, shards and of the file itself: visible escapes in every format, no markup,
no crash; streams that are closed, of another encoding, or twenty columns wide.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoint.hostile import entry, safetensors
from tests.checkpoint.seeds import onnx, torch_zip
from tests.command_line import CommandLine

HOSTILE = (
    "\x1b[31m\x1b]0;t\x07\x9b2J\r\n\t\b\x00\u202e\u200b\ufeff[red][/][link=file:///etc/passwd]x[/link]:bug:<b>|`$(id)"
)
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b-\u200f\ufeff\ud800-\udfff]")
FORMATS = [
    "terminal",
    "html",
    *(pytest.param(format, marks=pytest.mark.slow) for format in ("json", "csv", "markdown")),
]
COMMAND = [sys.executable, "-m", "modelprobe"]


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


def class_pickle(name: str) -> bytes:
    """A pickle that names a class of a hostile name, and has hostile keys and values."""
    raw = name.encode("utf-8", "surrogatepass")
    short = b"X" + len(raw).to_bytes(4, "little") + raw
    return b"\x80\x04}" + short + short + b"\x8c\x01x\x93)\x81s."


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> dict[str, Path]:
    """A file for every place that foreign text comes from."""
    folder = tmp_path_factory.mktemp("hostile")
    made = {
        "names": safetensors({HOSTILE: entry(), "__metadata__": {HOSTILE: HOSTILE}}, b"\0" * 8),
        "dtype": safetensors({"a": entry(dtype=HOSTILE)}, b"\0" * 8),
        "class": torch_zip(class_pickle(HOSTILE)),
        "member": torch_zip(b"\x80\x02}.", {f"a/{HOSTILE.replace(chr(0), '')}": b"x"}),
        "surrogate": torch_zip(class_pickle("\ud800" + HOSTILE)),
        "shards": json.dumps({"weight_map": {HOSTILE: f"{HOSTILE.replace('/', '')}.safetensors"}}).encode(),
        "external": onnx(HOSTILE),
    }  # fmt: skip
    for kind, data in made.items():
        (folder / kind).write_bytes(data)
    named = folder / f"{HOSTILE.replace(chr(0), '').replace('/', '')}.safetensors"
    named.write_bytes(safetensors({"a": entry()}, b"\0" * 8))
    return {kind: folder / kind for kind in made} | {"path": named}


KINDS = ["names", "dtype", "class", "member", "surrogate", "shards", "external", "path"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_62_63_foreign_text_is_shown_and_does_nothing(kind, format, hostile, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in (["summary", "--all"], ["keys"], ["scan"], ["repair"], ["diff", "SAME"]):
        extra = [str(hostile[kind]) if word == "SAME" else word for word in command[1:]]
        answer = cli(command[0], str(hostile[kind]), *extra, "-f", format)
        assert answer.code in (0, 1, 2), answer.err
        assert not CONTROL.search(answer.out.replace("\n", "")), command
        assert not CONTROL.search(answer.err.replace("\n", "")), command
        assert "\U0001f41b" not in answer.out  # :bug: is no emoji
        if format == "json" and answer.out:
            json.loads(answer.out)
        if format == "html":
            assert "<b>|" not in answer.out
            assert 'href="file:' not in answer.out


def test_62_names_are_shown_whole(hostile, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    out = cli("summary", str(hostile["names"]), "--all").out
    for shown in (r"\x1b[31m", r"\x07", r"\x9b", r"\r\n", r"\u202e", "[red][/]", "[link=file:///etc/passwd]", ":bug:"):
        assert shown in out, shown


@pytest.mark.parametrize("command", ["summary", "scan", "keys", "repair", "convert", "diff"])
def test_62_also_where_the_command_line_is_wrong(command, cli):
    hostile = HOSTILE.replace("\x00", "")
    for arguments in ([command, hostile], [command, "x", f"--{hostile}"], [command, "x", "-f", hostile]):
        answer = cli(*arguments)
        assert answer.code in (2,)
        assert not CONTROL.search(answer.err.replace("\n", ""))
        assert answer.out == ""


def run(*arguments, **more):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, timeout=60, **more)


@pytest.mark.zoo
def test_08_names_that_are_no_text(tmp_path):
    """Bytes that are no UTF-8, as an absent and as a present file."""
    place = os.fsencode(tmp_path) + b"/\xff\x1b[31m.safetensors"
    done = run("summary", place)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 2)
    assert rb"\udcff\x1b[31m" in done.stderr
    with open(place, "wb") as file:  # noqa: PTH123 - bytes
        file.write(safetensors({"a": entry()}, b"\0" * 8))
    done = run("summary", place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\udcff\x1b[31m" in done.stdout.replace(b"\n", b"")  # a long path is broken at the width


def test_08_names_that_windows_reserves(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CON", "NUL.pth", "aux", "C:", "a:b", "~nobody/x"):
        answer = cli("scan", name)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 2), answer.err


def dear(*commands: str) -> list[object]:
    """The commands after the first one cost a process each, and stay out of the everyday run."""
    return [commands[0], *(pytest.param(command, marks=pytest.mark.slow) for command in commands[1:])]


@pytest.mark.zoo
@pytest.mark.parametrize("encoding", dear("cp1252", "ascii", "utf-8"))
@pytest.mark.parametrize("command", dear("summary --all", "scan", "keys", "repair"))
def test_64_encodings(command, encoding, hostile):
    command = command.split()
    for kind in ("names", "surrogate"):
        done = run(command[0], str(hostile[kind]), *command[1:], env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode in (0, 1, 2)
        assert b"Traceback" not in done.stderr
        assert not CONTROL.search((done.stdout + done.stderr).decode(encoding).replace("\n", ""))


@pytest.mark.zoo
@pytest.mark.parametrize("command", dear("keys", "summary", "scan", "repair"))
def test_64_a_reader_that_leaves_and_streams_that_are_shut(command, hostile, tmp_path):
    many = tmp_path / "many.safetensors"
    header = {f"layer{index}.weight": entry(ends=(8 * index, 8 * index + 8)) for index in range(5000)}
    many.write_bytes(safetensors(header, b"\0" * 40000))
    wide = {"summary": ["--all"], "keys": [], "scan": [], "repair": ["--all", "--dtype", "float16"]}[command]
    line = f"{sys.executable} -m modelprobe {command} {many} {' '.join(wide)}"
    every = (("| true", {0, 141}), (">/dev/full", {2}), (">&-", {2}), ("2>&-", {0}))
    for redirection, codes in every[: 1 if command == "keys" else None]:
        script = f"set -o pipefail; {line} {redirection}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in codes, (redirection, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("width", ["20", "1", "0", "x"])
def test_64_narrow_and_odd_widths(width, hostile, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("NO_COLOR", "1")
    for command in ("summary", "keys", "scan", "repair"):
        answer = cli(command, str(hostile["names"]))
        assert answer.code in (0, 1)
        assert answer.out
        if width == "20":
            assert max(map(len, answer.out.splitlines())) <= 80
