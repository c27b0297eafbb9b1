"""Mutants of weight files, looked at by the commands in a process that is watched: run as a module, without torch.

`python -m tests.checkpoint.fuzz_worker SEED_FOLDER FILE COUNT [KEPT]` prints one JSON object; mutants that are listed
as another file, without a word, are kept in the folder KEPT. An audit hook of the interpreter sees whatever
would run, be imported, opened for writing or connected to; a timer ends what takes longer than five seconds.
"""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path

from rich.cells import cell_len

SECONDS = 5.0
COMMANDS = (("summary", "--all"), ("scan",), ("keys",))
"""Every mutant is summarised; scan and keys look at it in turn."""

HARMFUL = frozenset(
    (
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect"),
        *("pickle.find_class", "exec", "compile", "import", "ctypes.dlopen", "marshal.loads", "os.remove", "os.rename"),
        *("shutil.rmtree", "socket.bind", "os.chmod", "os.mkdir", "os.symlink", "webbrowser.open"),
    )
)
TOKENS = (
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x04", b"PK\1\2", b"PK\3\4", b"PK\5\6"),
    *(b"(", b".", b"R", b"t", b"Q", b"b", b"u", b"h\0", b"c__builtin__\neval\n", b"cos\nsystem\n", b"\x8a\xff"),
    *(b"\x8e" + b"\xff" * 8, b"{", b'"', b"[" * 500, b"9" * 400, b"-1", b"1e999", b"\x1b[31m", b"\xed\xa0\x80"),
    *(b"]" * 300, b"a" * 300, b"../", b"NaN", b"\x93", b"\x81", b"i__builtin__\nexec\n", b"B\xff\xff\xff\x7f"),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Between one and six wounds: flipped, overwritten, inserted, cut, doubled or swapped bytes, favouring the ends."""
    wounded = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not wounded:
            break
        at = place(len(wounded), rng)
        kind = rng.randrange(7)
        if kind == 0:
            wounded[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            wounded[at] = rng.randrange(256)
        elif kind == 2:
            token = rng.choice(TOKENS)
            wounded[at : at + len(token)] = token
        elif kind == 3:
            wounded[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            del wounded[at : at + rng.choice((1, 2, 8, 100))]
        elif kind == 5:
            del wounded[at:]
        else:
            other = place(len(wounded), rng)
            length = rng.choice((1, 4, 30, 200))
            wounded[at:at] = wounded[other : other + length]
    return bytes(wounded)


def place(length: int, rng: random.Random) -> int:
    """Headers stand at the ends, so half the wounds do too."""
    near = min(length, 400)
    return rng.choice((rng.randrange(length), rng.randrange(near), length - 1 - rng.randrange(near)))


class Watch:
    """What the audit hook saw while it was on, and the slowest file."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        self.slowest = 0.0

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        writing = event == "open" and isinstance(arguments[1], str) and bool(set(arguments[1]) & set("wax+"))
        if (event in HARMFUL or writing) and in_a_command():
            self.seen.append(f"{event} {str(arguments)[:200]}")

    def timed(self, ask: Callable[[], object]) -> object:
        """The answer of `ask`, with the hook on and no more than five seconds of work."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        started, self.on = time.process_time(), True
        try:
            return ask()
        finally:
            self.on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest = max(self.slowest, time.process_time() - started)


def in_a_command() -> bool:
    """Whether a command runs: before that, Typer evaluates the annotations of their arguments."""
    frame = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("modelprobe.cli.commands."):
            return True
        frame = frame.f_back
    return False


def out_of_time(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s of work")


def built_once() -> None:
    """Keep what Typer makes of the command line: it would take most of the time, and no mutant changes it."""
    import typer.main

    from modelprobe.cli import app as cli

    cli.application = lru_cache(None)(cli.application)
    typer.main.get_command = lru_cache(None)(typer.main.get_command)


def answered(path: Path, command: tuple[str, ...]) -> tuple[int, str, str]:
    """The exit code of a command on a file, and both streams."""
    from modelprobe.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([command[0], str(path), *command[1:]])
    return code, out.getvalue(), err.getvalue()


def judged(path: Path, number: int, watch: Watch, before: str) -> str:
    """What becomes of a mutant: refused, warned about, listed as before, or listed as another (valid) file."""
    kind = ""
    for command in (COMMANDS[0], COMMANDS[1 + number % 2]):
        code, out, err = watch.timed(lambda command=command: answered(path, command))
        assert code in (0, 1, 2, 5), (command, code, err)
        assert "Traceback" not in err, (command, err)
        assert code or not err, (command, err)
        assert code == 0 or len(err.splitlines()) <= 2, (command, err)
        if command[0] == "summary":
            warned = code == 0 and "warning:" in out
            kind = "refused" if code else "warned" if warned else "as before" if out == before else "another listing"
    return kind


def run(folder: Path, name: str, count: int, work: Path, kept: Path | None = None) -> dict[str, object]:
    """Look at `count` mutants of one seed."""
    for neighbour in folder.iterdir():
        shutil.copy(neighbour, work)
    path = work / name
    data = path.read_bytes()
    for module in pkgutil.iter_modules(importlib.import_module("modelprobe.checkpoint.formats").__path__):
        importlib.import_module(f"modelprobe.checkpoint.formats.{module.name}")
    for encoding in ("unicode_escape", "raw_unicode_escape", "latin_1", "ascii", "utf_16_le"):
        importlib.import_module(f"encodings.{encoding}")
    built_once()
    cell_len("\u4e00")  # rich reads its table of widths
    watch = Watch()
    for odd in (b"", b"PK\3\4", b"\x89HDF", b"\x80\x02.", data):  # whatever is imported when needed is imported now
        path.write_bytes(odd)
        for command in COMMANDS:
            answered(path, command)
    before = answered(path, COMMANDS[0])[1]
    modules = set(sys.modules)
    assert "torch" not in modules
    sys.addaudithook(watch.hook)
    signal.signal(signal.SIGPROF, out_of_time)
    rng = random.Random(f"modelprobe {folder.name}")
    counts, failures = Counter[str](), []
    for number in range(count):
        path.write_bytes(mutated(data, rng))
        try:
            kind = judged(path, number, watch, before)
            counts[kind] += 1
            if kind == "another listing" and kept is not None:
                shutil.copy(path, kept / f"{number}-{name}")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            failures.append(f"mutant {number}: {type(error).__name__} {str(error)[:600]}")
    new = sorted(n for n in set(sys.modules) - modules if not n.startswith(("modelprobe.", "rich.")))
    return {"counts": counts, "failures": failures, "seen": watch.seen, "modules": new, "slowest": watch.slowest,
            "peak_mib": peak_mib()}  # fmt: skip


def peak_mib() -> float:
    """The most memory that this process ever had; `getrusage` would count what it was forked from as well."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch) / "w"
        inner.mkdir()
        told = Path(sys.argv[4]) if len(sys.argv) > 4 else None
        print(json.dumps(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), inner, told)))
