"""Which module is running? Hooks on every module keep a stack of calls while a model runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modelprobe.tracing.module_tree import class_name, walk
from modelprobe.tracing.records import ModuleCall, Shape
from modelprobe.tracing.tensors import shapes
from modelprobe.tracing.torchscript import is_script, takes_no_hook


@dataclass
class _Call:
    """A module call while it runs; frozen into a ModuleCall afterwards."""

    path: str
    cls: str
    parent: int
    number: int
    inputs: tuple[Shape, ...]
    first_op: int
    outputs: tuple[Shape, ...] = ()
    end_op: int = -1

    def frozen(self, total: int) -> ModuleCall:
        end = self.end_op if self.end_op >= 0 else total
        return ModuleCall(self.path, self.cls, self.parent, self.number, self.inputs, self.outputs, self.first_op, end)


@dataclass
class Running:
    """Which module is running: the hooks push and pop here, the observer asks. `ops` tells how many operators ran."""

    ops: Callable[[], int]
    calls: list[_Call] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    failed: tuple[str, tuple[Shape, ...]] | None = None
    failure: BaseException | None = None

    def where(self) -> tuple[str, int]:
        """Path and call number of the innermost running module."""
        if not self.stack:
            return "", -1
        return self.calls[self.stack[-1]].path, self.stack[-1]

    def enter(self, paths: Sequence[str], cls: str, inputs: tuple[Shape, ...]) -> None:
        """A module starts. Of a shared module's names, the one inside the running module is meant."""
        parent = self.stack[-1] if self.stack else -1
        path = paths[0]
        if len(paths) > 1 and parent >= 0:
            above = self.calls[parent].path
            inside = above + "." if above else ""
            path = next((p for p in paths if p.startswith(inside) and "." not in p[len(inside) :]), path)
        number = self.counts[path] = self.counts.get(path, 0) + 1
        # The call first: out of stack in between, a number of no call would stay on ours.
        self.calls.append(_Call(path, cls, parent, number, inputs, self.ops()))
        self.stack.append(len(self.calls) - 1)

    def leave(self, paths: Sequence[str], outputs: Any) -> None:
        """A module ends, or an exception passes through it: then its name is kept, the innermost first."""
        error = sys.exc_info()[1]
        if not self.stack:
            return
        call = self.calls[self.stack.pop()]
        if error is not None and error is not self.failure:
            self.failure, self.failed = error, (call.path, call.inputs)
        call.end_op = self.ops()
        call.outputs = shapes(outputs)


def watch(model: nn.Module, running: Running, stack: ExitStack) -> bool:
    """Hooks on every module: ours before and after those that users put there, so theirs run inside.

    False when the model itself takes none, as what `torch.jit.script` makes.
    """
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for path, module in walk(model):
        paths.setdefault(id(module), []).append(path)
        modules[id(module)] = module
    for key, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) and (module is not model or takes_no_hook(model)):
            continue  # called from C++, past any hook; its operators count for the script above it
        enter, leave = _hooks(paths[key], class_name(module), running)
        stack.callback(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(leave, always_call=not is_script(module)).remove)
    return not takes_no_hook(model)


def _hooks(paths: list[str], cls: str, running: Running) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        running.enter(paths, cls, shapes((args, kwargs) if kwargs else args[0] if len(args) == 1 else args))

    def leave(_: nn.Module, __: Any, out: Any) -> None:
        running.leave(paths, out)

    return enter, leave
