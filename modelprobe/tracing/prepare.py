"""What is done to a model before it can be recorded: wrappers opened, lazy modules given shapes, compilers kept out."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.compiler_stand_in import compiler_loaded, compiler_stand_in
from modelprobe.tracing.failures import model_errors, model_raised
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.module_tree import state_tables
from modelprobe.tracing.restore import on_meta
from modelprobe.tracing.tensors import copied, moved


def unwrapped(model: nn.Module) -> tuple[nn.Module, list[Note]]:
    """The model inside DataParallel, DistributedDataParallel and torch.compile wrappers, and a note for each."""
    said: list[Note] = []
    while True:
        cls = type(model).__name__
        inner = getattr(model, "_orig_mod", None) if cls == "OptimizedModule" else None
        if isinstance(model, nn.DataParallel) or cls == "DistributedDataParallel":
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model, said
        wrapper = "torch.compile" if cls == "OptimizedModule" else cls
        said.append(Note(f"Unwrapped from {wrapper}: the module inside was recorded.", Level.INFO))
        model = inner


def materialised(model: nn.Module, args: Any, kwargs: Any, meta: bool) -> nn.Module:
    """A copy, on meta or where the model is, whose lazy parameters have their shapes."""
    twin = deepcopy(model)
    if not any(is_lazy(tensor) for tensor in (*twin.parameters(), *twin.buffers())):
        return twin
    args, kwargs = copied(tuple(args)), copied(dict(kwargs))
    if meta:
        args, kwargs = moved(args, "meta"), moved(kwargs, "meta")
        _lazies_to_meta(twin)
    with (
        model_errors(partial(model_raised, model, args, kwargs, Running(lambda: 0))),
        compiler_stand_in(),
        torch.random.fork_rng(devices=[]),
        on_meta(twin) if meta else nullcontext(),
        torch.no_grad(),
    ):
        twin.eval()(*args, **kwargs)
    return twin.train(model.training)


def _lazies_to_meta(model: nn.Module) -> None:
    for module in model.modules():
        for _, table in state_tables(module):
            for name, tensor in table.items():
                if tensor is not None and is_lazy(tensor):
                    lazy: Any = type(tensor)  # of the two lazy classes, which take the same arguments
                    table[name] = lazy(requires_grad=tensor.requires_grad, device="meta", dtype=tensor.dtype)


def run_compiled_parts_eagerly(model: nn.Module, stack: ExitStack) -> None:
    # Importing dynamo costs a second: only when something inside is compiled, or somebody has imported it already.
    compiled = compiler_loaded() or any(
        type(m).__name__ == "OptimizedModule" or getattr(m, "_compiled_call_impl", None) is not None
        for m in model.modules()
    )
    if compiled:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
