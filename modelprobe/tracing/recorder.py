"""Runs a model once, under hooks and a dispatch mode, and returns what happened as a `Trace`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from modelprobe.errors import ModelRaised
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.compiler_stand_in import compiler_loaded, compiler_stand_in
from modelprobe.tracing.dispatch import Observer, TensorNumbers
from modelprobe.tracing.failures import (
    NeedsValuesError,
    by_compiler,
    explained,
    model_errors,
    real_run_note,
    refuse_meta,
)
from modelprobe.tracing.formulas.plugins import installed_formulas
from modelprobe.tracing.module_calls import Running, watch
from modelprobe.tracing.module_tree import class_name, read_tree, walk
from modelprobe.tracing.prepare import materialised, run_compiled_parts_eagerly, unwrapped
from modelprobe.tracing.records import FunctionCall, TensorRef, Trace
from modelprobe.tracing.restore import mode_set, on_meta, restored
from modelprobe.tracing.tensors import copied, leaves, moved, shapes
from modelprobe.tracing.torchscript import hidden_operators, is_script


def trace(
    model: nn.Module,
    *args: Any,
    device: str = "meta",
    train: bool = False,
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    functions: bool = False,
) -> Trace:
    """Run `model(*args, **kwargs)` once and return its ledger. The model is left exactly as it was.

    With `device="meta"` no arithmetic is done and no weight is touched; a model that needs real values (its control
    flow depends on data) is run again where its weights are, with the tensors that were given, and a note says so.
    With `device="real"` it runs where its weights are from the start. `train` records a training-mode forward,
    `functions` also the calls of torch's Python functions (`Trace.functions`).
    Raises ModelRaised when the model raises, with the module and the shapes in flight; BadInput when real values
    are needed and the model or the inputs have none.
    """
    call_kwargs = dict(kwargs or {})
    model, said = unwrapped(model)
    said = [*notes, *said, *installed_formulas(), *hidden_operators(model)]
    if any(isinstance(module, LazyModuleMixin) for module in model.modules()):
        model = materialised(model, args, call_kwargs, device == "meta")
        said.append(Note("Lazy modules were given their shapes on a copy, by a first forward.", Level.INFO))
    if device == "meta" and not is_script(model):
        try:
            return recorded(model, args, call_kwargs, "meta", train, said, env or {}, functions)
        except NeedsValuesError as needs:
            refuse_meta(model, args, call_kwargs, needs)
            said.append(real_run_note(needs, "where its weights are"))
    return recorded(model, args, call_kwargs, "real", train, said, env or {}, functions)


def recorded(*how: Any) -> Trace:
    """`_record`, which takes the same; once more when the forward itself brought in the compiler (`torch.cond` does),
    which would otherwise trace into our hooks: from then on compiled parts are run eagerly."""
    loaded = compiler_loaded()
    try:
        return _record(*how)
    except ModelRaised as error:
        if loaded or not by_compiler(error.__cause__):
            raise
    return _record(*how)


def _record(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    device: str,
    train: bool,
    notes: Sequence[Note],
    env: Mapping[str, Any],
    functions: bool,
) -> Trace:
    tree = read_tree(model)
    values = TensorNumbers()
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        args, kwargs = _placed(model, args, kwargs, device, stack)
        stack.enter_context(mode_set(model, train))
        run_compiled_parts_eagerly(model, stack)
        named = _named(model, values)
        inputs = tuple(values.get(tensor) for _, tensor in leaves((args, kwargs)))
        for ref, (name, _) in zip(inputs, leaves({"input": args, **kwargs}), strict=True):
            named[ref.value] = name
        buffers = {path: (values.get(buffer), buffer) for path, buffer in _buffers(model)}
        running = Running(lambda: len(observer.ops))
        observer = Observer(values, running.where, device == "meta")
        watched = watch(model, running, stack)
        if not watched:
            running.enter([""], class_name(model), shapes((args, kwargs)))
        called = _watched_functions(running, observer, stack) if functions else []
        out = _forward(model, args, kwargs, observer, running, device)
        if not watched:
            running.leave([""], out)
        changed = _changed(model, buffers, observer.written)
        outputs = tuple(values.get(tensor) for _, tensor in leaves(out))
    ops = tuple(observer.ops)
    calls = tuple(call.frozen(len(ops)) for call in running.calls)
    told, composites = (*notes, *broken_notes(observer)), tuple(observer.composites)
    return Trace(tree, ops, calls, inputs, outputs, named, changed, told, dict(env), composites, tuple(called))


def _watched_functions(running: Running, observer: Observer, stack: ExitStack) -> list[FunctionCall]:
    from modelprobe.tracing.torch_functions import watched_functions  # few recordings ask for them

    return stack.enter_context(watched_functions(running.where, lambda: len(observer.ops)))


def _placed(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], device: str, stack: ExitStack
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as the forward gets them: on meta beside the model's shapes, else copies of one's own."""
    if device == "meta":
        stack.enter_context(on_meta(model))
        return moved(tuple(args), "meta"), moved(dict(kwargs), "meta")
    return copied(tuple(args)), copied(dict(kwargs))


def broken_notes(observer: Observer) -> list[Note]:
    """A warning for each formula that raised."""
    return [
        Note(f"The formula of {name} raised {why}; it is not counted.", Level.WARNING)
        for name, why in observer.broken.items()
    ]


def _forward(model: nn.Module, args: Any, kwargs: Any, observer: Observer, running: Running, device: str) -> Any:
    explain = partial(explained, model, args, kwargs, device, running)
    with model_errors(explain), compiler_stand_in(), torch.inference_mode(), observer, quiet_hooks():
        return model(*args, **kwargs)


@contextmanager
def quiet_hooks() -> Iterator[None]:
    """At the end of the stack our hooks fail as well, and torch says so beside the error that follows: it shall not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "module forward hook with ``always_call=True`` raised")
        yield


def _named(model: nn.Module, values: TensorNumbers) -> dict[int, str]:
    named: dict[int, str] = {}
    storages: dict[int, int] = {}
    for path, module in walk(model):
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and not is_lazy(tensor):
                    ref = _numbered_value(values, tensor, storages)
                    named.setdefault(ref.value, f"{path}.{name}" if path else name)
    return named


def _numbered_value(values: TensorNumbers, tensor: Tensor, storages: dict[int, int]) -> TensorRef:
    ref = values.get(tensor)
    try:
        memory = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return ref
    known = storages.setdefault(memory, ref.storage)
    return ref if known == ref.storage else values.new(tensor, known)


def _buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        (f"{path}.{name}" if path else name, tensor)
        for path, module in walk(model)
        for name, tensor in module._buffers.items()
        if tensor is not None and not is_lazy(tensor)
    ]


def _changed(model: nn.Module, before: Mapping[str, tuple[TensorRef, Tensor]], written: set[int]) -> frozenset[str]:
    """Buffers that the forward wrote to in place, or replaced by another tensor."""
    after = dict(_buffers(model))
    return frozenset(
        path for path, (ref, buffer) in before.items() if ref.storage in written or after.get(path) is not buffer
    )
