"""Where reports go: formats, files that are whole or not there, streams that are narrow, plain, ASCII or gone."""

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from modelprobe import console
from modelprobe.cli import output
from modelprobe.errors import BadInput, Incomplete
from modelprobe.files import atomic
from modelprobe.report.blocks import Level, Note, Report
from modelprobe.report.formats import Style
from tests.report.reports import sample

CLEAN = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("format", "name", "chosen"),
    [
        (None, None, "terminal"),
        (None, "a.json", "json"),
        (None, "a.CSV", "csv"),
        (None, "a.md", "markdown"),
        (None, "a.html", "html"),
        (None, "a.txt", "terminal"),
        ("json", "a.html", "json"),
        ("markdown", None, "markdown"),
    ],
)
def test_the_format(tmp_path, format, name, chosen):
    assert output.choose(format, tmp_path / name if name else None).name == chosen


@pytest.mark.parametrize(("format", "name"), [(None, "a.yaml"), (None, "a"), ("yaml", "a.json")])
def test_an_unknown_format_names_the_known(tmp_path, format, name):
    with pytest.raises(BadInput) as caught:
        output.choose(format, tmp_path / name)
    assert "json" in caught.value.hint


def test_a_file_is_written_whole_and_nothing_is_left_beside(tmp_path, capsys):
    output.emit(sample(), None, tmp_path / "a.txt")
    text = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert "├─ conv1" in text
    assert "\x1b" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "wrote" in caught.err


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.atomic_write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640  # 0666 & ~0027


def test_an_existing_file_is_kept_without_force_and_its_mode_with(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("mine")
    path.chmod(0o604)
    with pytest.raises(BadInput, match="exists") as caught:
        output.emit(sample(), None, path)
    assert "--force" in caught.value.hint
    assert path.read_text() == "mine"
    output.emit(sample(), None, path, force=True)
    assert path.read_text().startswith("{")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_link_is_not_written_through_without_force(tmp_path):
    real, link = tmp_path / "real.md", tmp_path / "link.md"
    real.write_text("mine")
    link.symlink_to(real)
    with pytest.raises(BadInput, match="symbolic link"):
        output.emit(sample(), None, link)
    assert real.read_text() == "mine"
    output.emit(sample(), None, link, force=True)
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8").startswith("## Cost")


@pytest.mark.parametrize("name", ["", "missing/a.json", "file/a.json", "n\0l.json", "x" * 300 + ".json", "loop"])
def test_an_unusable_place_is_bad_input(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadInput) as caught:
        atomic.atomic_write(tmp_path / name, b"x", force=True)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_device_is_never_replaced(tmp_path):
    with pytest.raises(BadInput, match="not a regular file"):
        atomic.atomic_write(Path(os.devnull), b"x", force=True)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch, error):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(fd):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else BadInput):
        atomic.atomic_write(path, b"new", force=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_check_says_early_what_emit_would_say_late(tmp_path):
    (tmp_path / "a.json").write_text("")
    with pytest.raises(BadInput, match="exists"):
        output.check(None, tmp_path / "a.json")
    output.check(None, tmp_path / "a.json", force=True)
    output.check(None, None)


def test_strict_prints_first_and_raises_then(capsys):
    with pytest.raises(Incomplete, match="2 notes stand against this answer; the first: Input 224 was assumed"):
        output.emit(sample(), strict=True)
    assert "Cost of resnet50" in capsys.readouterr().out


def test_strict_lets_information_pass(capsys):
    output.emit(Report("t", "s/1", (Note("fine", Level.INFO),)), strict=True)
    assert "note: fine" in capsys.readouterr().out


def test_notes_of_a_csv_are_said_on_stderr(capsys):
    output.emit(sample(), "csv")
    caught = capsys.readouterr()
    assert caught.out.startswith("depth,module")
    assert "warning: 1 module never ran: fc.\n" in caught.err


@pytest.mark.parametrize(
    ("encoding", "unicode"), [("utf-8", True), ("ascii", False), ("cp1252", False), ("cp437", False)]
)
def test_drawing_follows_the_encoding(encoding, unicode):
    assert console.style_of(io.TextIOWrapper(io.BytesIO(), encoding=encoding)).unicode is unicode


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_encoding_fails(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.emit(Report("naïve 模型 µ", "s/1", ()))
    assert b"mod" not in raw.getvalue()
    assert raw.getvalue().decode(encoding).startswith("na")


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("settings", "terminal", "colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour(monkeypatch, settings, terminal, colour):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert console.style_of(_Terminal() if terminal else io.StringIO()).colour is colour


def test_width_follows_columns_and_has_a_floor(monkeypatch):
    monkeypatch.setenv("COLUMNS", "123")
    assert console.style_of(io.StringIO()) == Style(123, colour=False, unicode=True)
    monkeypatch.setenv("COLUMNS", "3")
    assert console.style_of(io.StringIO()).width == 20


def test_foreign_text_on_stderr_is_escaped(capsys):
    console.complain("no \x1b[31mmodel\n", "try \u202ethis")
    console.say("a\rb")
    assert capsys.readouterr().err == "error: no \\x1b[31mmodel\\n\nhint: try \\u202ethis\na\\rb\n"


PROGRAM = "import sys; from modelprobe.cli.output import emit; from tests.report.reports import sample; emit(sample())"


def _all_of(terminal):
    """What comes out of our end of a terminal, until the other end is closed."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            piece = b""
        if not piece:
            os.close(terminal)
            return shown.decode()
        shown += piece


@pytest.mark.zoo
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_real_terminal(settings, coloured):
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    env = {**CLEAN, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **settings}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=theirs, env=env) as process:
        os.close(theirs)
        text = _all_of(ours)
        assert process.wait(30) == 0
    assert ("\x1b[" in text) is coloured
    assert "─" * 60 in text
    assert "─" * 61 not in text


@pytest.mark.zoo
def test_a_pipe_has_no_colour_and_80_columns():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, env=CLEAN, check=True)
    assert b"\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.decode().split("\n")) <= 80


@pytest.mark.zoo
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_shows_what_is_waited_for():
    """torch is loaded, the model is built and run: each is said from its first moment on, and nothing stays."""
    ours, theirs = os.openpty()
    env = {**CLEAN, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "modelprobe", "flops", "alexnet", "--fresh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = _all_of(ours)
        assert process.stdout.read().startswith(b"alexnet (torchvision): cost")
    places = [shown.index(text) for text in ("loading torch", "building alexnet", "running alexnet")]
    assert places == sorted(places)
    assert shown.rstrip().endswith("\x1b[2K")  # the line is erased
