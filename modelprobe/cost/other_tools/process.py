"""Runs children that ask one tool each: some at a time, each with a time limit, none of them able to touch us.

A child has its own process group, nothing to read and nowhere to print. It finds its order in a folder and leaves its
answer there, so whatever the tool prints, patches, or kills stays with the child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.cost.other_tools.child import ANSWER, ORDER
from modelprobe.cost.other_tools.tool import ToolResult
from modelprobe.environment import usable_cores

PAUSE = 0.02
"""Seconds between two looks at the children."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do: `content` is plain JSON for `entry`, the `module:function` that it runs.

    `needs` is the memory in bytes that the child is expected to take.
    """

    name: str
    entry: str
    content: Mapping[str, Any]
    needs: int = 0


@dataclass
class _Running:
    order: Order
    folder: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def ask_all(
    orders: Sequence[Order],
    timeout: float,
    *,
    workers: int,
    memory: int | None = None,
    progress: Callable[[Sequence[str], Mapping[str, ToolResult]], None] = lambda running, done: None,
) -> dict[str, ToolResult]:
    """The answers by name, in the order of `orders`. At most `workers` children at once, within `memory` bytes.

    `progress` hears who is running and what is done, after each change. No child outlives this call.
    """
    waiting = list(orders)
    running: list[_Running] = []
    answers: dict[str, ToolResult] = {}
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="modelprobe-", ignore_cleanup_errors=True))
        )
        stack.callback(_stop_all, running)
        while waiting or running:
            while waiting and len(running) < workers and _fits_in_memory(waiting[0], running, memory):
                running.append(_start(waiting.pop(0), folder, workers))
                progress([child.order.name for child in running], answers)
            for child in list(running):
                if child.process.poll() is not None or child.seconds > timeout:
                    answers[child.order.name] = _end(child, timeout)
                    running.remove(child)
                    progress([other.order.name for other in running], answers)
            time.sleep(PAUSE)
    return {order.name: answers[order.name] for order in orders}


def _fits_in_memory(order: Order, running: Sequence[_Running], memory: int | None) -> bool:
    taken = sum(child.order.needs for child in running)
    return not running or memory is None or taken + order.needs <= memory


def _start(order: Order, parent: Path, workers: int) -> _Running:
    folder = parent / order.name
    folder.mkdir()
    (folder / ORDER).write_text(json.dumps(dict(order.content)), encoding="utf-8")
    module, _, function = order.entry.partition(":")
    # `-m` would put the working directory before everything: the child imports from where we do, in the same order.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function}; {function}({str(folder)!r})"
    threads = str(max(1, usable_cores() // workers))
    environment = {**dict.fromkeys(_THREADS, threads), **os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,  # held open while we live: the child ends when it closes
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    return _Running(order, folder, process)


def _end(child: _Running, timeout: float) -> ToolResult:
    """The answer of a child that is done or out of time, and of its own children nothing left."""
    seconds, late = child.seconds, child.process.poll() is None
    _stop(child)
    try:
        found = json.loads((child.folder / ANSWER).read_text(encoding="utf-8"))
        return ToolResult(found["figure"], found["problem"], found["place"], seconds)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ToolResult(
        None, f"stopped after {timeout:g} s (--timeout)" if late else _death(child.process.returncode), "", seconds
    )


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code} and no answer"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"its process was ended by {name}{', as when memory runs out' if name == 'SIGKILL' else ''}"
    return f"its process was ended by signal {-code}"


def _stop_all(running: Sequence[_Running]) -> None:
    for child in running:
        _stop(child)


def _stop(child: _Running) -> None:
    """End the child's whole process group, and wait for the child."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.process.pid, signal.SIGKILL)
        else:
            child.process.kill()
    with suppress(OSError):
        if child.process.stdin is not None:
            child.process.stdin.close()
    child.process.wait()


def free_memory() -> int | None:
    """Bytes that can still be taken without swapping, within the limit of a container; None where it is not known."""
    found = [_meminfo(), _container()]
    return min((amount for amount in found if amount is not None), default=None)


def _meminfo() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _container() -> int | None:
    """What is left of the limit of a control group; unused pages of files can be taken back."""
    place = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        limit, used = (int((place / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        lines = (place / "memory.stat").read_text(encoding="ascii").splitlines()
        return limit - used + next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return None
