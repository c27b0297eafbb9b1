"""Forward hooks on the modules of somebody else's model: which call of which module, and removed whatever happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch
from torch import nn


@contextmanager
def forward_hooks(
    model: nn.Module,
    after: Callable[[str, int, Any], Any],
    before: Callable[[str], None] | None = None,
    paths: Sequence[str] | None = None,
) -> Iterator[None]:
    """Within, `after(path, call, output)` follows every call of the modules at `paths` (of all when None).

    `call` counts the calls of that module in this forward pass of `model`, from 0. What `after` returns takes the
    output's place, unless it is None. `before(path)` comes ahead of each call. TorchScript takes no hook.
    """
    calls: Counter[str] = Counter()

    def hook_of(path: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            calls[path] += 1
            return after(path, calls[path] - 1, output)

        return hook

    if paths is None:
        modules = dict(model.named_modules())
    else:
        modules = {path: reduce(getattr, path.split(".") if path else (), model) for path in paths}
    with ExitStack() as stack:
        if not isinstance(model, torch.jit.ScriptModule):
            stack.callback(model.register_forward_pre_hook(lambda *_: calls.clear()).remove)
        for path, module in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if before is not None:
                stack.callback(module.register_forward_pre_hook(lambda *_, path=path: before(path)).remove)
            stack.callback(module.register_forward_hook(hook_of(path)).remove)
        yield
