"""Which module is running? Hooks on every module keep a stack of calls while a model runs, one for each thread.

A dispatch mode, inference mode and that stack belong to one thread: work that a forward hands to another would be seen
by nobody. It is followed there.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TopLevelTracedModule
from torch.nn.parameter import is_lazy

from modelprobe.tracing.module_tree import class_name, walk
from modelprobe.tracing.records import ModuleCall, Shape
from modelprobe.tracing.tensors import leaves, shapes


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
    """Which module is running: the hooks push and pop here, the observer asks. `ops` tells how many operators ran.

    `seen` tells whether a tensor was given to the forward or made by an operator. `ended(path, class, output)` is
    called at the end of every call of a module, which goes by the first of its names. `silent` are paths of layers
    that ran where no operator of theirs was seen. Every followed thread has a stack of its own, see `branch`.
    """

    ops: Callable[[], int]
    seen: Callable[[Tensor], bool] = lambda tensor: True
    ended: Callable[[str, str, Any], None] = lambda path, cls, output: None
    calls: list[_Call] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    failed: tuple[str, tuple[Shape, ...]] | None = None
    failure: BaseException | None = None
    silent: dict[str, None] = field(default_factory=dict)
    outer: int = -1
    thread: int = field(default_factory=threading.get_ident)
    anywhere: bool = False  # whether a thread that is no branch counts as the first: autograd's engine has its own
    branches: dict[int, Running] = field(default_factory=dict)
    serial: int = 0  # 0, and a number of its own for each branch: the system gives the same thread number again
    serials: Iterator[int] = field(default_factory=partial(count, 1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def where(self) -> tuple[str, int]:
        """Path and call number of the innermost running module."""
        inner = self.stack[-1] if self.stack else self.outer
        return (self.calls[inner].path, inner) if inner >= 0 else ("", -1)

    def here(self) -> Running | None:
        """What keeps the stack of the thread that asks; None in a thread that is not followed."""
        own = threading.get_ident()
        return self if own == self.thread else self.branches.get(own, self if self.anywhere else None)

    @contextmanager
    def branch(self, outer: int) -> Iterator[Running]:
        """The stack of the thread that enters, whose work belongs to the call `outer` of the thread that gave it."""
        twin, own = copy(self), threading.get_ident()
        twin.stack, twin.outer, twin.thread, twin.failed, twin.failure = [], outer, own, None, None
        twin.serial, before = next(self.serials), self.branches.get(own)
        self.branches[own] = twin
        try:
            yield twin
        finally:
            if before is None:
                del self.branches[own]
            else:
                self.branches[own] = before
            if self.failed is None and twin.failed is not None:
                self.failed, self.failure = twin.failed, twin.failure

    def enter(self, paths: Sequence[str], cls: str, inputs: tuple[Shape, ...]) -> None:
        """A module starts. Of a shared module's names, the one inside the running module is meant."""
        parent = self.stack[-1] if self.stack else self.outer
        path = paths[0]
        if len(paths) > 1 and parent >= 0:
            above = self.calls[parent].path
            inside = above + "." if above else ""
            path = next((p for p in paths if p.startswith(inside) and "." not in p[len(inside) :]), path)
        with self.lock:
            number = self.counts[path] = self.counts.get(path, 0) + 1
            # The call first: out of stack in between, a number of no call would stay on ours.
            self.calls.append(_Call(path, cls, parent, number, inputs, self.ops()))
            self.stack.append(len(self.calls) - 1)

    def leave(self, outputs: Any, layer: bool = False) -> None:
        """A module ends, or an exception passes through it: then its name is kept, the innermost first.

        `layer`: it has parameters and no children, so that something has to be seen of what it does.
        """
        error = sys.exc_info()[1]
        if not self.stack:
            return
        call = self.calls[self.stack.pop()]
        if error is not None and error is not self.failure:
            self.failure, self.failed = error, (call.path, call.inputs)
        call.end_op = self.ops()
        call.outputs = shapes(outputs)
        unheard = layer and error is None and call.end_op == call.first_op and bool(call.outputs)
        if unheard and not all(self.seen(tensor) for _, tensor in leaves(outputs)):
            self.silent[call.path] = None


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
        layer = not module._modules and any(p is not None and not is_lazy(p) for p in module._parameters.values())
        enter, leave = _hooks(paths[key], class_name(module), running, layer)
        stack.callback(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(leave, always_call=not is_script(module)).remove)
    return not takes_no_hook(model)


def _hooks(
    paths: list[str], cls: str, running: Running, layer: bool
) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        here = running.here()
        if here is not None:
            here.enter(paths, cls, shapes((args, kwargs) if kwargs else args[0] if len(args) == 1 else args))
        elif layer:
            running.silent[paths[0]] = None

    def leave(_: nn.Module, __: Any, out: Any) -> None:
        here = running.here()
        if here is not None:
            here.leave(out, layer)
            here.ended(paths[0], cls, out)

    return enter, leave


Entering = Callable[[], AbstractContextManager[Any]]


@contextmanager
def followed_threads(here: Callable[[], Entering]) -> Iterator[None]:
    """In the body, run what this thread gives to others (`Thread.start`, `ThreadPoolExecutor.submit`) inside a context.

    `here()` is called in the thread that hands over the work, and what it returns in the one that does it. Threads that
    those start are followed as well; all other threads of the process are left alone.
    """
    followed = {threading.get_ident()}
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def inside(entering: Entering, run: Callable[..., Any]) -> Callable[..., Any]:
        def followed_run(*args: Any, **kwargs: Any) -> Any:
            own = threading.get_ident()
            again = own in followed
            followed.add(own)
            try:
                with entering():
                    return run(*args, **kwargs)
            finally:
                if not again:
                    followed.discard(own)

        return followed_run

    def start_followed(thread: threading.Thread) -> None:
        # A worker of a pool is followed task by task: it may live longer than this forward.
        if threading.get_ident() in followed and not _is_pool_worker(thread):
            thread.run = inside(here(), thread.run)  # type: ignore[method-assign]
        start(thread)

    def submit_followed(pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task = inside(here(), fn) if threading.get_ident() in followed else fn
        return submit(pool, task, *args, **kwargs)

    threading.Thread.start = start_followed  # type: ignore[method-assign, assignment]
    ThreadPoolExecutor.submit = submit_followed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]


def _is_pool_worker(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == "concurrent.futures.thread"


def is_script(model: nn.Module) -> bool:
    """Whether the module is TorchScript. Its parameters live in C++ and cannot be exchanged for meta ones."""
    return isinstance(model, torch.jit.ScriptModule)


def takes_no_hook(model: nn.Module) -> bool:
    """What `torch.jit.script` makes refuses hooks; the outermost module of `torch.jit.trace` takes them."""
    return is_script(model) and not isinstance(model, TopLevelTracedModule)
