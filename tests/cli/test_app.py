"""The shell around the commands: help, errors in one line and a hint, exit codes, nothing a terminal would obey."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelprobe import __version__
from modelprobe.cli import app as cli
from modelprobe.errors import EXIT_CODES, BadInput, CheckFailed, Incomplete, ModelRaised, ProbeError, WouldRunCode


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)

    def call(*arguments):
        code = cli.main(arguments)
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return call


@pytest.fixture
def raising(monkeypatch):
    """Make `env` raise what the test likes."""

    def install(error):
        def fail():
            raise error

        monkeypatch.setattr("modelprobe.environment.describe_machine", fail)

    return install


def test_no_arguments_show_the_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "Usage: modelprobe" in out


def test_the_help_lists_the_commands_and_the_exit_codes(run):
    _, out, _ = run("--help")
    flat = " ".join(out.split())
    assert all(meaning.split(":")[0] in flat for meaning in EXIT_CODES.values())
    assert all(f" {name} " in out for name, *_ in cli.COMMANDS)


@pytest.mark.parametrize("name", [name for name, *_ in cli.COMMANDS])
def test_every_command_has_help(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Usage: modelprobe {name}" in out


def test_version(run):
    assert run("--version") == (0, f"modelprobe {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("envv",), "there is no command 'envv'\nhint: did you mean env?"),
        (("env", "--frmat", "json"), "no such option: --frmat"),
        (("env", "extra"), "extra"),
        (("env", "-f"), "-f"),
        (("env", "-f", "yaml"), "unknown format 'yaml'\nhint: choose one of terminal, json, jsonl"),
        (("env", "-o", "a.yaml"), "names no format"),
        (("\x1b[31mred",), "\\x1b[31mred"),
        (("env", "--\x1b[31mred"), "\\x1b[31mred"),
        (("env", "-f", "\x1b]0;title\x07"), "\\x1b]0;title\\x07"),
        (("env", "\udce9"), "\\udce9"),
    ],
)
def test_usage_errors_are_one_line_and_a_hint(run, arguments, says):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert "\x1b" not in err


@pytest.mark.parametrize("kind", [ProbeError, BadInput, CheckFailed, Incomplete, ModelRaised, WouldRunCode])
def test_probe_errors(run, raising, kind):
    raising(kind("it\nis \x1bwrong", "do this"))
    assert run("env") == (kind.exit_code, "", "error: it\\nis \\x1bwrong\nhint: do this\n")
    assert kind.exit_code in EXIT_CODES


def test_an_internal_error(run, raising):
    raising(ValueError("odd\nthing"))
    code, out, err = run("env")
    assert (code, out) == (70, "")
    assert err.startswith("error: internal error: ValueError: odd thing\nhint: run it again with --debug")


def test_out_of_memory_and_interruption(run, raising):
    raising(MemoryError())
    assert run("env")[0] == 2
    raising(KeyboardInterrupt())
    assert run("env") == (130, "", "interrupted\n")


@pytest.mark.parametrize("arguments", [("--debug", "env"), ("env", "--debug")])
def test_debug_shows_the_traceback(run, raising, arguments):
    raising(BadInput("wrong\x1b"))
    code, _, err = run(*arguments)
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert "\x1b" not in err


def test_debug_by_the_environment(run, raising, monkeypatch):
    raising(BadInput("wrong"))
    assert "Traceback" not in run("env")[2]
    monkeypatch.setenv("MODELPROBE_DEBUG", "1")
    assert "Traceback" in run("env")[2]


def test_debug_after_two_dashes_is_an_argument():
    assert cli._without_common(["a", "--", "--debug"])[0] == ["a", "--", "--debug"]


def modelprobe(*arguments, **more):
    return subprocess.run([sys.executable, "-m", "modelprobe", *arguments], capture_output=True, text=True, **more)


def test_a_reader_that_leaves_is_no_error():
    """The pipe is closed before anything is written: no traceback, also none at exit."""
    process = subprocess.Popen(
        [sys.executable, "-m", "modelprobe", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from modelprobe.cli.output import emit; from tests.report.reports import sample\n"
                "from modelprobe.cli.app import _explain\ntry: emit(sample())\nexcept Exception as e: raise SystemExit(_explain(e))",  # noqa: E501
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write to stdout: No space left")
    assert "Traceback" not in done.stderr


def test_shell_completion_names_the_commands():
    env = {**os.environ, "_MODELPROBE_COMPLETE": "complete_bash", "COMP_WORDS": "modelprobe en", "COMP_CWORD": "1"}
    assert "env" in modelprobe(env=env).stdout


def test_help_imports_no_torch():
    code = "import sys; from modelprobe.cli.app import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("place", [0, 3])
def test_quiet_leaves_the_answer_and_what_was_assumed(run, place):
    line = ["params", "resnet18", "-f"]
    shown, quiet = run("params", "resnet18"), list(line[:2])
    quiet.insert(min(place, 2), "-q")
    code, out, err = run(*quiet)
    assert (code, err) == (0, "")
    assert "note:" in shown[1]
    assert "note:" not in out
    assert out.splitlines()[:8] == shown[1].splitlines()[:8]


def test_quiet_says_no_file_but_every_error(run, tmp_path):
    assert run("params", "resnet18", "--quiet", "-o", str(tmp_path / "p.json"))[1:] == ("", "")
    code, _, err = run("params", "resnet1", "-q")
    assert code == 2
    assert err.startswith("error: ")


def test_colours_by_option(run, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" in run("--color", "always", "schema")[1] + run("env", "--color=always")[1]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("env")[1]
    assert "\x1b[" not in run("env", "--color", "never")[1]
    assert "FORCE_COLOR" in os.environ
    assert "NO_COLOR" not in os.environ


@pytest.mark.parametrize("line", [("--color", "pink", "env"), ("env", "--color=pink"), ("env", "--color")])
def test_a_colour_that_is_none(run, line):
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert err.endswith("hint: choose one of auto, always, never\n")
