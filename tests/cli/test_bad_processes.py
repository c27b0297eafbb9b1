"""What only a whole process shows: readers that leave, Ctrl-C, closed and full streams, encodings, terminals."""

import json
import os
import pty
import select
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "modelprobe"]
WAIT = """
import sys, time


def wait():
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)


"""
STAGES = {
    "import": "wait()\n",
    "forward": "from torch import nn\n\n\nclass Net(nn.Identity):\n    def forward(self, x):\n        wait()\n",
}


def run(*arguments, **more):
    """The finished process, its streams as bytes."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, timeout=60, **more)


@pytest.mark.zoo
def test_a_reader_that_leaves_in_the_middle():
    # The listing is longer than a pipe holds, so that the writer meets the closed end.
    process = subprocess.Popen([*COMMAND, "models", "-f", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=30), err) == (141, b"")


@pytest.mark.zoo
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_ends_quickly_and_leaves_nothing(tmp_path, stage):
    (tmp_path / "slow.py").write_text(WAIT + STAGES[stage])
    arguments = ["flops", "slow.py:Net", "--input", "x=4", "-o", "out.json"]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind
    ) as process:
        lines = []
        while not lines or lines[-1] not in ("ready\n", ""):
            lines.append(process.stderr.readline())
        assert lines == ["ready\n"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["slow.py"]


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        (">&-", 2, "error: stdout is closed\nhint: use -o FILE\n"),
        (">/dev/full", 2, "error: cannot write to stdout: No space left on device\nhint: use -o FILE\n"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(redirection, code, says):
    line = f"{sys.executable} -m modelprobe models resnet18 -f csv {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    if code:
        assert done.stderr == says
    else:
        assert done.stdout.startswith("name,origin,parameters,")


@pytest.mark.zoo
@pytest.mark.parametrize("environment", [{}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_bytes_that_are_no_text_in_the_arguments(environment):
    done = run("flops", b"r\xffs\x1b[31m\nt", env={**os.environ, **environment})
    assert done.returncode == 2
    assert done.stdout == b""
    assert rb"is called 'r\udcffs\x1b[31m\nt'" in done.stderr
    assert done.stderr.count(b"\n") == 2


@pytest.mark.zoo
def test_a_file_name_that_is_no_text(tmp_path):
    place = os.fsencode(tmp_path) + b"/\xff\x1b[31m.json"
    done = run("models", "resnet18", "-o", place)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.endswith(rb"\udcff\x1b[31m.json" + b"\n")
    assert json.loads(open(place, "rb").read())["schema"] == "modelprobe.models/2"  # noqa: SIM115, PTH123 - bytes


def on_a_terminal(*arguments, **environment):
    """What a command writes to a real terminal of 80 columns."""
    master, slave = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=slave, stderr=slave, env={**kept, "TERM": "xterm", **environment}
    )
    os.close(slave)
    text = b""
    while select.select([master], [], [], 60)[0]:
        try:
            text += os.read(master, 65536)
        except OSError:  # the other end is closed
            break
    os.close(master)
    return process.wait(timeout=60), text.decode()


@pytest.mark.zoo
def test_colour_on_a_terminal_and_none_under_no_color():
    code, coloured = on_a_terminal("models", "resnet5x")
    assert (code, "\x1b[1;31merror:\x1b[0m no model matches 'resnet5x'" in coloured) == (2, True)
    code, plain = on_a_terminal("models", "resnet18", NO_COLOR="1", COLUMNS="30")
    assert (code, "\x1b" in plain) == (0, False)
    assert max(map(len, plain.splitlines())) <= 30
