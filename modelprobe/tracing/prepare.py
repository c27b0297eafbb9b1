"""What is done to a model before it can be recorded: wrappers opened, lazy modules given shapes, compilers kept out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from modelprobe.report.blocks import Level, Note
from modelprobe.report.units import first_few
from modelprobe.tracing.compiler_stand_in import compiler_loaded, compiler_stand_in
from modelprobe.tracing.failures import model_errors, model_raised
from modelprobe.tracing.module_calls import Running, is_script
from modelprobe.tracing.module_tree import state_tables, walk
from modelprobe.tracing.restore import on_meta
from modelprobe.tracing.tensors import copied, moved


def unwrapped(model: nn.Module) -> tuple[nn.Module, list[Note]]:
    """The model inside DataParallel, DistributedDataParallel and torch.compile wrappers, and a note for each.

    One more note names the parts inside that are compiled.
    """
    said: list[Note] = []
    while True:
        cls = type(model).__name__
        inner = getattr(model, "_orig_mod", None) if cls == "OptimizedModule" else None
        if isinstance(model, nn.DataParallel) or cls == "DistributedDataParallel":
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model, [*said, *_compiled_note(model)]
        wrapper = "torch.compile" if cls == "OptimizedModule" else cls
        said.append(Note(f"Unwrapped from {wrapper}: the module inside was recorded.", Level.INFO))
        model = inner


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


def _compiled_note(model: nn.Module) -> list[Note]:
    parts = [path or "the model itself" for path, module in walk(model) if _is_compiled(module)]
    if not parts:
        return []
    text = f"Compiled parts were run eagerly and are counted operator by operator: {first_few(parts, 6)}."
    return [Note(text, Level.INFO)]


def has_lazies(model: nn.Module) -> bool:
    """Whether a module waits for its first input to know the shapes of its weights."""
    return any(
        isinstance(module, LazyModuleMixin)
        or any(is_lazy(tensor) for _, table in state_tables(module) for tensor in table.values())
        for module in model.modules()
    )


def materialised(model: nn.Module, args: Any, kwargs: Any, meta: bool) -> nn.Module:
    """A copy, on meta or where the model is, whose lazy parameters have their shapes."""
    twin = deepcopy(model, _fresh_lazies(model))
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


def _fresh_lazies(model: nn.Module) -> dict[int, Any]:
    """What `deepcopy` takes in the place of each tensor without a shape: torch's own copying refuses some of them."""
    lazies = {id(t): t for t in (*model.parameters(), *model.buffers()) if is_lazy(t)}
    return {key: _lazy_like(tensor, tensor.device) for key, tensor in lazies.items()}


def _lazies_to_meta(model: nn.Module) -> None:
    for module in model.modules():
        for _, table in state_tables(module):
            for name, tensor in table.items():
                if tensor is not None and is_lazy(tensor):
                    table[name] = _lazy_like(tensor, torch.device("meta"))


def _lazy_like(tensor: Any, device: torch.device) -> Any:
    """A new parameter or buffer without a shape."""
    kind: Any = UninitializedParameter if isinstance(tensor, UninitializedParameter) else UninitializedBuffer
    return kind(tensor.requires_grad, device=device, dtype=tensor.dtype)


_ONLY_WARN = ("warn_if_padding_and_no_attention_mask",)
"""Methods of models of transformers that read values for the sake of a warning: what a forward costs is the same."""


def prepare_parts(model: nn.Module, stack: ExitStack) -> None:
    """Until `stack` is left, compiled parts run eagerly, and methods that read values only to warn do nothing."""
    for module in model.modules():
        for name in _ONLY_WARN:
            if hasattr(type(module), name) and name not in vars(module):
                vars(module)[name] = lambda *_, **__: None
                stack.callback(vars(module).pop, name)
    # Importing dynamo costs a second: only when something inside is compiled, or somebody has imported it already.
    if compiler_loaded() or any(map(_is_compiled, model.modules())):
        stack.enter_context(torch.compiler.set_stance("force_eager"))


@contextmanager
def autocast_of_meta() -> Iterator[None]:
    """In the body, autocast of the device that a tensor on `meta` has is that of the CPU: it has none of its own.

    Code that is written for any device asks for it (`torch.autocast(x.device.type)`); on `meta` it changes nothing.
    """
    cls: Any = torch.amp.autocast_mode.autocast
    plain = cls.__init__

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        plain(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)

    cls.__init__ = init
    try:
        yield
    finally:
        cls.__init__ = plain


# What `torch.jit.optimize_for_inference` and the fusers put in the place of operators: nodes of the interpreter itself.
_FUSED_NODES = re.compile(r"= (prim::(?:mkldnn_\w+|MKLDNN\w+|\w*(?:Fusion|Differentiable|TensorExpr)\w*))[\[(]")


def _scripts(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost scripts in a model."""
    if is_script(model):
        yield model
    else:
        for child in model.children():
            yield from _scripts(child)


def hidden_operators(model: nn.Module) -> list[Note]:
    """A warning for the kernels of an optimised script that run below the dispatcher, where no operator is seen."""
    graphs = (str(getattr(script, "inlined_graph", "")) for script in _scripts(model))
    found = Counter(name for graph in graphs for name in _FUSED_NODES.findall(graph))
    if not found:
        return []
    names = ", ".join(f"{count} x {name}" for name, count in sorted(found.items()))
    return [
        Note(
            f"Not counted: {names}, which run inside TorchScript's interpreter. "
            "Give the module as it was before torch.jit.optimize_for_inference.",
            Level.WARNING,
        )
    ]
