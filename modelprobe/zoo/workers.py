"""Worker processes that answer one job after the other; a crash, a hang or too much memory costs one job alone."""

from __future__ import annotations

import functools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from modelprobe.errors import ProbeError, one_line

LOOK_EVERY = 0.1
"""Seconds between two looks at a worker's memory and time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is to do: `entry` is the `module:function` that takes `arguments` and returns plain values."""

    key: str
    entry: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What became of a job: its `value`, or the `problem` in one line. `seconds` of wall-clock time.

    `died` is whether the process ended by itself, or was ended by somebody else.
    """

    key: str
    value: Any
    problem: str
    seconds: float
    died: bool = False


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Seconds for one job, and bytes of memory of one worker; None is no limit."""

    seconds: float | None = None
    memory: int | None = None


class Worker:
    """One process that is started anew after it died. Jobs go in and answers come out as lines of JSON."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def answer(self, job: Job, limits: JobLimits) -> JobAnswer:
        """Do a job. Never raises for what the job does."""
        process = self._process or self._start()
        started = time.monotonic()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"entry": job.entry, "arguments": dict(job.arguments)}) + "\n")
            process.stdin.flush()
        except OSError:
            return self._lost(job, started, _ending(process), died=True)
        while True:
            try:
                line = self._answers.get(timeout=LOOK_EVERY)
            except queue.Empty:
                used = time.monotonic() - started
                if limits.seconds is not None and used > limits.seconds:
                    return self._lost(job, started, f"stopped after {limits.seconds:g} s")
                if limits.memory is not None and (taken := resident(process.pid)) > limits.memory:
                    return self._lost(job, started, f"stopped at {taken / 2**30:.1f} GiB of memory")
                continue
            if line is None:
                return self._lost(job, started, _ending(process), died=True)
            said = json.loads(line)
            return JobAnswer(job.key, said["value"], said["problem"], time.monotonic() - started)

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _lost(self, job: Job, started: float, problem: str, *, died: bool = False) -> JobAnswer:
        self.stop()
        return JobAnswer(job.key, None, problem, time.monotonic() - started, died)

    def _start(self) -> subprocess.Popen[str]:
        # `-m` would put the working directory before everything: the worker imports from where we do.
        code = f"import sys; sys.path[:] = {sys.path!r}; from modelprobe.zoo.workers import serve; serve()"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads))
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**threads, **os.environ},
            text=True,
            encoding="utf-8",
        )
        answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put(None)

        threading.Thread(target=read, daemon=True).start()
        self._process, self._answers = process, answers
        return process


@functools.cache
def _worker_of_thread(thread: int) -> Worker:
    return Worker(1)


def answer_here(job: Job, limits: JobLimits) -> JobAnswer:
    """Do a job in a worker of this thread's own, kept for the next: what a machine of a cluster runs."""
    return _worker_of_thread(threading.get_ident()).answer(job, limits)


def run_jobs(jobs: Iterable[Job], count: int, limits: JobLimits) -> Iterator[JobAnswer]:
    """The answers as they come, from `count` workers. No worker outlives this."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    total = 0
    for job in jobs:
        waiting.put(job)
        total += 1
    done: queue.SimpleQueue[JobAnswer] = queue.SimpleQueue()
    workers = [Worker(1) for _ in range(max(1, min(count, total)))]
    closing = threading.Event()

    def work(worker: Worker) -> None:
        with suppress(queue.Empty):
            while not closing.is_set():
                job = waiting.get_nowait()
                answer = worker.answer(job, limits)
                # What killed the process may have had nothing to do with the job: it gets one more.
                done.put(worker.answer(job, limits) if answer.died and not closing.is_set() else answer)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in range(total):
            yield done.get()
    finally:
        closing.set()
        for worker in workers:
            worker.stop()


def resident(process: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _ending(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"


def serve() -> None:
    """The worker: one line of JSON in, one out, until stdin closes. What jobs print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # whoever asked is gone: nobody waits for the job that is running

    threading.Thread(target=listen, daemon=True).start()
    while True:
        order = json.loads(lines.get())
        answers.write(json.dumps(_served(order)) + "\n")
        answers.flush()


def _served(order: Mapping[str, Any]) -> dict[str, Any]:
    module, _, function = order["entry"].partition(":")
    try:
        return {"value": getattr(import_module(module), function)(**order["arguments"]), "problem": ""}
    except ProbeError as error:
        return {"value": None, "problem": error.message}
    except MemoryError:
        return {"value": None, "problem": "out of memory"}
    except Exception as error:  # noqa: BLE001 - whatever it is belongs to this job alone
        return {"value": None, "problem": f"{type(error).__name__}: {one_line(error)}"}
