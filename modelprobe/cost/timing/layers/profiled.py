"""Forward passes under `torch.profiler`, with a mark around every call of a module, as trees of what ran in what."""

from __future__ import annotations

import os
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

_Mark: Any = torch._C._profiler._RecordFunctionFast  # `record_function` takes ten times as long


@dataclass(slots=True)
class Event:
    """What ran from `start` to `end` (nanoseconds), and what inside it. `device_ns` is that of its own kernels."""

    name: str
    start: int
    end: int
    device_ns: int = 0
    inside: list[Event] = field(default_factory=list)

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


def profiled_passes(
    model: nn.Module, step: Callable[[], Any], wait: Callable[[], Any], count: int
) -> tuple[list[Event], Any]:
    """`count` passes, each as a tree below its `PASS_MARK`, and the profiler that has them all.

    One more is run before, whose time has the start of the profiler in it.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with _quiet_kineto(), ExitStack() as stack:
        _mark_modules(model, stack)
        with profile(activities=activities) as profiler:
            for _ in range(count + 1):
                with _Mark(PASS_MARK):
                    step()
                    wait()
    assert profiler.profiler is not None
    found: Any = profiler.profiler.kineto_results
    return pass_trees(found.events())[1:], profiler


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
    """The tree of each `PASS_MARK` among kineto's events: what its thread did, and the kernels that this launched."""
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
    own = [event for event in events if _on_processor(event) and event.start_thread_id() == thread]
    own.sort(key=lambda event: (event.start_ns(), -event.duration_ns()))
    trees: list[Event] = []
    stack: list[Event] = []
    for event in own:
        begin, end = event.start_ns(), event.start_ns() + event.duration_ns()
        made = Event(event.name(), begin, end, kernels.get(event.correlation_id(), 0))
        while stack and stack[-1].end <= begin:
            stack.pop()
        if made.name == PASS_MARK:
            trees.append(made)
            stack = [made]
        elif stack:
            stack[-1].inside.append(made)
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
