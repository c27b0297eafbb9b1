"""Forward passes under `torch.profiler`, with a mark around every call of a module, as trees of what ran in what."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from modelprobe.tracing.module_tree import walk

PASS_MARK = "modelprobe pass"
MODULE_MARK = "modelprobe module "
"""The names of the marks: around a whole pass, and before the path of a module."""

NODE_MARK = "autograd::engine::evaluate_function: "
"""How the name of an event begins in which autograd runs a node backward."""

BLOCK = 3
"""Passes in a row; one is left out."""

_Mark: Any = torch._C._profiler._RecordFunctionFast  # `record_function` takes ten times as long


@dataclass(slots=True)
class Event:
    """What ran from `start` to `end` (nanoseconds), and what inside it. `device_ns` is that of its own kernels.

    `sequence` is autograd's number: of an operator that made a node, and of that node when it runs; -1 of none.
    """

    name: str
    start: int
    end: int
    device_ns: int = 0
    inside: list[Event] = field(default_factory=list)
    sequence: int = -1

    @property
    def duration(self) -> int:
        """Nanoseconds on the processor."""
        return self.end - self.start

    @property
    def module(self) -> str | None:
        """The path of the module whose call it is; None of an operator."""
        return self.name.removeprefix(MODULE_MARK) if self.name.startswith(MODULE_MARK) else None

    @property
    def operator(self) -> str:
        """The name as the ledger writes it."""
        return self.name.replace("::", ".", 1)

    def all_inside(self) -> Iterator[Event]:
        """Everything below it."""
        for event in self.inside:
            yield event
            yield from event.all_inside()

    def kernels_ns(self) -> int:
        """Nanoseconds of the kernels that it and everything below it launched."""
        return self.device_ns + sum(event.device_ns for event in self.all_inside())


@dataclass(frozen=True)
class ProfiledPasses:
    """Passes as trees, each below its `PASS_MARK`; how many times as long as plain ones between them they take (the
    median of blocks); and torch's profiler with the last block."""

    trees: list[Event]
    slower: float
    profiler: Any


def profiled_passes(model: nn.Module, step: Callable[[], Any], wait: Callable[[], Any], blocks: int) -> ProfiledPasses:
    """Passes under the profiler, `BLOCK` at a time, with as many plain ones after each: a machine is faster at one time
    than at another. The first of each, which pays for the change, is left out."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    trees: list[Event] = []
    ratios: list[float] = []
    profiler: Any = None
    with _quiet_kineto(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Profiler clears events")  # each block has its own profiler
        for _ in range(blocks):
            with ExitStack() as stack:
                _mark_modules(model, stack)
                with profile(activities=activities) as profiler:
                    for _ in range(BLOCK):
                        with _Mark(PASS_MARK):
                            step()
                            wait()
            own = pass_trees(profiler.profiler.kineto_results.events())[1:]
            plain = [_seconds(step, wait) for _ in range(BLOCK)][1:]
            trees += own
            ratios += [statistics.fmean(tree.duration for tree in own) / 1e9 / statistics.fmean(plain)] if own else []
    return ProfiledPasses(trees, statistics.median(ratios or [1.0]), profiler)


def _seconds(step: Callable[[], Any], wait: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - started


def _mark_modules(model: nn.Module, stack: ExitStack) -> None:
    """Marks around every call of a module, which goes by the first of its names. Scripts take none."""
    open_marks: list[Any] = []
    seen: set[int] = set()
    for path, module in walk(model):
        if id(module) in seen or isinstance(module, torch.jit.ScriptModule):
            continue
        seen.add(id(module))

        def enter(_: nn.Module, __: Any, name: str = MODULE_MARK + path) -> None:
            mark = _Mark(name)
            mark.__enter__()
            open_marks.append(mark)

        def leave(*_: Any) -> None:
            open_marks.pop().__exit__(None, None, None)

        stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
        stack.callback(module.register_forward_hook(leave).remove)


def pass_trees(events: Sequence[Any]) -> list[Event]:
    """The tree of each `PASS_MARK` among kineto's events: what its thread did, and the kernels that this launched.

    So are the nodes that autograd runs backward in a thread of its own, while that of the pass waits.
    """
    passes = [event for event in events if event.name() == PASS_MARK and _on_processor(event)]
    if not passes:
        return []
    thread = passes[0].start_thread_id()
    kernels: dict[int, int] = {}
    for event in events:
        if (
            not _on_processor(event)
            and event.linked_correlation_id() > 0
            and not event.name().startswith((PASS_MARK, MODULE_MARK))
        ):
            caller = event.linked_correlation_id()
            kernels[caller] = kernels.get(caller, 0) + event.duration_ns()
    own = sorted(filter(_on_processor, events), key=lambda event: (event.start_ns(), -event.duration_ns()))
    trees: list[Event] = []
    stacks: dict[int, list[Event]] = {thread: []}
    for event in own:
        begin, end = event.start_ns(), event.start_ns() + event.duration_ns()
        made = Event(event.name(), begin, end, kernels.get(event.correlation_id(), 0), sequence=event.sequence_nr())
        stack = stacks.setdefault(event.start_thread_id(), [])
        while stack and stack[-1].end <= begin:
            stack.pop()
        if made.name == PASS_MARK:
            trees.append(made)
            stacks = {thread: [made]}
        elif stack:
            stack[-1].inside.append(made)
            stack.append(made)
        elif made.name.startswith(NODE_MARK) and trees and begin < trees[-1].end:
            trees[-1].inside.append(made)
            stack.append(made)
    return trees


def _on_processor(event: Any) -> bool:
    return str(event.device_type()).endswith(".CPU")


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """The profiler's library tells on stderr that it starts and that there is no GPU; it reads this when it is used."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
