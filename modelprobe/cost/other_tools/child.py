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
from modelprobe.model.build import LoadedModel, TargetRequest, fuse_model, load_model

ORDER, ANSWER = "order.json", "answer.json"
"""Files in the folder of a child."""

ENTRY = f"{__name__}:run_child"
"""What a child runs that asks a tool."""

META, CPU = "meta", "cpu"


def order_content(request: TargetRequest, ask: Ask, *, fused: bool, on_meta: bool) -> dict[str, Any]:
    """The order for a child, as plain values: the request and the function to ask, by name."""
    place = f"{ask.__module__}:{getattr(ask, '__qualname__', '')}"
    return {"request": asdict(request), "ask": place, "fused": fused, "on_meta": on_meta}


def run_child(folder: str) -> None:
    """Carry out the order in `folder`."""
    carry_out(folder, _ask_as_ordered)


def _ask_as_ordered(order: Mapping[str, Any]) -> ToolResult:
    request = TargetRequest(**order["request"])
    module, _, function = order["ask"].partition(":")
    ask: Ask = getattr(importlib.import_module(module), function)
    if request.device is not None:
        return _ask_about(request, ask, order["fused"])
    if order["on_meta"]:
        with suppress(Exception):  # the model asks for values, or the tool for a device: the CPU has both
            return _ask_about(replace(request, device=META), ask, order["fused"])
    return _ask_about(replace(request, device=CPU), ask, order["fused"])


def _ask_about(request: TargetRequest, ask: Ask, fused: bool) -> ToolResult:
    import torch

    from modelprobe.model.inputs.example import make_inputs

    loaded = fuse_model(load_model(request)) if fused else load_model(request)
    place = _device_of(loaded)
    example = make_inputs(
        loaded.target,
        request.inputs,
        request.batch,
        request.dtype,
        request.inputs_from,
        model=loaded.model,
    )
    args, kwargs = example.build(place, request.seed)
    torch.manual_seed(request.seed)
    return ToolResult(plain_number(ask(loaded.model.eval(), args, kwargs)), place=place)


def _device_of(loaded: LoadedModel) -> str:
    """Where the weights are: an instance of the user's stays where it was made."""
    first = next(loaded.model.parameters(), None)
    return str(first.device) if first is not None else str(loaded.request.device)


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
