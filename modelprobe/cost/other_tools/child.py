"""What a child process does: read the order from a folder, build the model anew, ask one tool, leave its result.

Nothing that is printed here is seen: stdout and stderr lead nowhere, and there is nothing to read on stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from modelprobe.cost.other_tools.tool import Ask, ToolResult, plain_number
from modelprobe.errors import ProbeError, one_line
from modelprobe.model.build import Question, Subject, build, fuse

ORDER, ANSWER = "order.json", "answer.json"
"""Files in the folder of a child."""

ENTRY = f"{__name__}:run_child"
"""What a child runs that asks a tool."""

META, CPU = "meta", "cpu"


def order_content(question: Question, ask: Ask, *, fused: bool, on_meta: bool) -> dict[str, Any]:
    """The order for a child, as plain values: the question and the function to ask, by name."""
    place = f"{ask.__module__}:{getattr(ask, '__qualname__', '')}"
    return {"question": asdict(question), "ask": place, "fused": fused, "on_meta": on_meta}


def run_child(folder: str) -> None:
    """Carry out the order in `folder`."""
    carry_out(folder, _ask_as_ordered)


def _ask_as_ordered(order: Mapping[str, Any]) -> ToolResult:
    question = Question(**order["question"])
    module, _, function = order["ask"].partition(":")
    ask: Ask = getattr(importlib.import_module(module), function)
    if question.device is not None:
        return _ask_about(question, ask, order["fused"])
    if order["on_meta"]:
        with suppress(Exception):  # the model asks for values, or the tool for a device: the CPU has both
            return _ask_about(replace(question, device=META), ask, order["fused"])
    return _ask_about(replace(question, device=CPU), ask, order["fused"])


def _ask_about(question: Question, ask: Ask, fused: bool) -> ToolResult:
    import torch

    from modelprobe.model.inputs.example import make_inputs

    subject = fuse(build(question)) if fused else build(question)
    place = _device_of(subject)
    example = make_inputs(
        subject.target,
        question.inputs,
        question.batch,
        question.dtype,
        question.inputs_from,
        model=subject.model,
    )
    args, kwargs = example.build(place, question.seed)
    torch.manual_seed(question.seed)
    return ToolResult(plain_number(ask(subject.model.eval(), args, kwargs)), place=place)


def _device_of(subject: Subject) -> str:
    """Where the weights are: an instance of the user's stays where it was made."""
    first = next(subject.model.parameters(), None)
    return str(first.device) if first is not None else str(subject.question.device)


def carry_out(folder: str, answer: Callable[[Mapping[str, Any]], ToolResult]) -> None:
    """ToolResult the order in `folder`. Does not return: threads that a tool left behind must not hold the process."""
    home = Path(folder)
    _end_with_parent(home.parent)
    try:
        found = answer(json.loads((home / ORDER).read_text(encoding="utf-8")))
    except BaseException as error:  # noqa: BLE001 - whatever the tool raises is its answer, also `sys.exit`
        found = ToolResult(None, _problem_text(error))
    part = home / f"{ANSWER}.part"
    part.write_text(json.dumps(asdict(found)), encoding="utf-8")
    part.replace(home / ANSWER)
    os._exit(0)


def _problem_text(error: BaseException) -> str:
    if isinstance(error, ProbeError):
        return error.message
    text = one_line(error)
    return text if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {text}"


def _end_with_parent(shared: Path) -> None:
    """End the whole process group when the parent is gone, and offer it first where memory runs out.

    `shared` is the folder of all children, which the parent then cannot remove any more.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(OSError):
        line = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        threading.Thread(target=_watch, args=(line, shared), daemon=True).start()


def _watch(line: int, shared: Path) -> None:
    """The parent holds the other end open as long as it lives, and writes nothing."""
    with suppress(OSError):
        os.read(line, 1)
    shutil.rmtree(shared, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
