"""Runs a model once, under hooks and a dispatch mode, and returns what happened as a `Trace`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from modelprobe.errors import BadInput, ModelRaised, one_line
from modelprobe.report import Level, Note
from modelprobe.tracing.formulas.plugins import installed_formulas
from modelprobe.tracing.functions import watched_functions
from modelprobe.tracing.ledger import ModuleCall, Shape, TensorRef, Trace
from modelprobe.tracing.observer import Observer, Values
from modelprobe.tracing.residue import mode_set, on_meta, pristine
from modelprobe.tracing.script import hidden_operators, is_script, takes_no_hook
from modelprobe.tracing.tree import class_name, read_tree, state_tables, walk
from modelprobe.tracing.values import copied, leaves, moved, shapes
from modelprobe.units import shape as shape_text


class NeedsValuesError(BadInput):
    """The model asked a `meta` tensor for its values; it has to run for real. `where` is the module that asked."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"the model asks for values{f' in {where}' if where else ''}, which meta tensors do not have: {reason}",
            "it has to run for real: --device cpu, or a model and inputs on a real device",
        )
        self.where = where
        self.reason = reason


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
class _Running:
    """Which module is running: the hooks push and pop here, the observer asks."""

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
    model, said = _unwrapped(model)
    said = [*notes, *said, *installed_formulas(), *hidden_operators(model)]
    if any(isinstance(module, LazyModuleMixin) for module in model.modules()):
        model = _materialised(model, args, call_kwargs, device == "meta")
        said.append(Note("Lazy modules were given their shapes on a copy, by a first forward.", Level.INFO))
    if device == "meta" and not is_script(model):
        try:
            return _recorded(model, args, call_kwargs, "meta", train, said, env or {}, functions)
        except NeedsValuesError as needs:
            _refuse_meta(model, args, call_kwargs, needs)
            said.append(real_run_note(needs, "where its weights are"))
    return _recorded(model, args, call_kwargs, "real", train, said, env or {}, functions)


def real_run_note(needs: NeedsValuesError, how: str) -> Note:
    """Why a model was run for real after all."""
    where = f" in {needs.where}" if needs.where else ""
    return Note(
        f"Run for real {how}, not on meta: the model asks for values{where} ({needs.reason}). "
        "What it costs may depend on the data.",
        Level.INFO,
    )


def _refuse_meta(model: nn.Module, args: Any, kwargs: Any, needs: NeedsValuesError) -> None:
    everything = [*model.parameters(), *model.buffers(), *(t for _, t in leaves((args, kwargs)))]
    if any(tensor.is_meta for tensor in everything):
        raise needs


def _recorded(*how: Any) -> Trace:
    """`_record`; once more when the forward itself brought in the compiler (`torch.cond` does), which would otherwise
    trace into our hooks: from then on compiled parts are run eagerly."""
    loaded = "torch._dynamo" in sys.modules
    try:
        return _record(*how)
    except ModelRaised as error:
        if loaded or not _by_compiler(error.__cause__):
            raise
    return _record(*how)


def _by_compiler(error: BaseException | None) -> bool:
    return type(error).__module__.startswith("torch._dynamo")


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
    values = Values()
    with ExitStack() as stack:
        stack.enter_context(pristine(model))
        if device == "meta":
            stack.enter_context(on_meta(model))
            args, kwargs = moved(tuple(args), "meta"), moved(dict(kwargs), "meta")
        else:
            args, kwargs = copied(tuple(args)), copied(dict(kwargs))
        stack.enter_context(mode_set(model, train))
        _run_compiled_parts_eagerly(model, stack)
        named = _named(model, values)
        inputs = tuple(values.get(tensor) for _, tensor in leaves((args, kwargs)))
        for ref, (name, _) in zip(inputs, leaves({"input": args, **kwargs}), strict=True):
            named[ref.value] = name
        buffers = {path: (values.get(buffer), buffer) for path, buffer in _buffers(model)}
        running = _Running(lambda: len(observer.ops))
        observer = Observer(values, running.where, device == "meta")
        watched = _watch(model, running, stack)
        if not watched:
            running.enter([""], class_name(model), shapes((args, kwargs)))
        called = stack.enter_context(watched_functions(running.where, lambda: len(observer.ops), functions))
        out = _forward(model, args, kwargs, observer, running, device)
        if not watched:
            running.leave([""], out)
        changed = _changed(model, buffers, observer.written)
        outputs = tuple(values.get(tensor) for _, tensor in leaves(out))
    ops = tuple(observer.ops)
    calls = tuple(call.frozen(len(ops)) for call in running.calls)
    composites = tuple(observer.composites)
    return Trace(
        tree,
        ops,
        calls,
        inputs,
        outputs,
        named,
        changed,
        (*notes, *_broken(observer)),
        dict(env),
        composites,
        tuple(called),
    )


def _broken(observer: Observer) -> list[Note]:
    return [
        Note(f"The formula of {name} raised {why}; it is not counted.", Level.WARNING)
        for name, why in observer.broken.items()
    ]


def _forward(model: nn.Module, args: Any, kwargs: Any, observer: Observer, running: _Running, device: str) -> Any:
    try:
        with torch.inference_mode(), observer, warnings.catch_warnings():
            # At the end of the stack our hooks fail as well, and torch says so beside the error that follows.
            warnings.filterwarnings("ignore", "module forward hook with ``always_call=True`` raised")
            return model(*args, **kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also `sys.exit` in a forward: it must not end in success
        where = running.failed[0] if running.failed else ""
        if device == "meta" and _asks_for_values(error):
            raise NeedsValuesError(where, one_line(error)) from error
        raise _model_raised(model, args, kwargs, running, error) from error


def _asks_for_values(error: BaseException) -> bool:
    """Whether an exception on meta says that values, not shapes, were missing; else it would happen for real too."""
    if isinstance(error, NotImplementedError) or _by_compiler(error):
        return not _by_compiler(error)
    text = one_line(error, 10_000).lower()
    return any(word in text for word in ("meta", "data-dependent", "data dependent", "unbacked"))


def _model_raised(model: nn.Module, args: Any, kwargs: Any, running: _Running, error: BaseException) -> Exception:
    given = ", ".join(shape_text(shape) for shape in shapes((args, kwargs))) or "no tensors"
    if isinstance(error, TypeError) and not running.calls[1:] and "forward()" in one_line(error):
        return BadInput(
            f"{class_name(model)} was given {given}: {one_line(error)}",
            "give one --input per argument of forward, by name if need be: --input ids=1x128:int64",
        )
    path, inputs = running.failed or ("", ())
    where = f"{class_name(model)}.{path}" if path else class_name(model)
    flight = ", ".join(shape_text(shape) for shape in inputs) or given
    node = next((node for node in read_tree(model).modules if node.path == path), None)
    layer = f"{path} is {node.cls}({node.extra}); " if path and node and node.extra else ""
    return ModelRaised(
        f"{where} raised {type(error).__name__} on {flight}: {one_line(error)}",
        f"{layer}the model was given {given}: choose another --input; --debug shows the traceback",
    )


def _unwrapped(model: nn.Module) -> tuple[nn.Module, list[Note]]:
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


def _materialised(model: nn.Module, args: Any, kwargs: Any, meta: bool) -> nn.Module:
    """A copy, on meta or where the model is, whose lazy parameters have their shapes."""
    twin = deepcopy(model)
    if not any(is_lazy(tensor) for tensor in (*twin.parameters(), *twin.buffers())):
        return twin
    args, kwargs = copied(tuple(args)), copied(dict(kwargs))
    if meta:
        args, kwargs = moved(args, "meta"), moved(kwargs, "meta")
        _lazies_to_meta(twin)
    try:
        with torch.random.fork_rng(devices=[]), on_meta(twin) if meta else nullcontext(), torch.no_grad():
            twin.eval()(*args, **kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _model_raised(model, args, kwargs, _Running(lambda: 0), error) from error
    return twin.train(model.training)


def _lazies_to_meta(model: nn.Module) -> None:
    for module in model.modules():
        for _, table in state_tables(module):
            for name, tensor in table.items():
                if tensor is not None and is_lazy(tensor):
                    lazy: Any = type(tensor)  # of the two lazy classes, which take the same arguments
                    table[name] = lazy(requires_grad=tensor.requires_grad, device="meta", dtype=tensor.dtype)


def _run_compiled_parts_eagerly(model: nn.Module, stack: ExitStack) -> None:
    # Importing dynamo costs a second: only when something inside is compiled, or somebody has imported it already.
    compiled = "torch._dynamo" in sys.modules or any(
        type(m).__name__ == "OptimizedModule" or getattr(m, "_compiled_call_impl", None) is not None
        for m in model.modules()
    )
    if compiled:
        stack.enter_context(torch.compiler.set_stance("force_eager"))


def _named(model: nn.Module, values: Values) -> dict[int, str]:
    named: dict[int, str] = {}
    storages: dict[int, int] = {}
    for path, module in walk(model):
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and not is_lazy(tensor):
                    ref = _register(values, tensor, storages)
                    named.setdefault(ref.value, f"{path}.{name}" if path else name)
    return named


def _register(values: Values, tensor: Tensor, storages: dict[int, int]) -> TensorRef:
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


def _watch(model: nn.Module, running: _Running, stack: ExitStack) -> bool:
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


def _hooks(paths: list[str], cls: str, running: _Running) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        running.enter(paths, cls, shapes((args, kwargs) if kwargs else args[0] if len(args) == 1 else args))

    def leave(_: nn.Module, __: Any, out: Any) -> None:
        running.leave(paths, out)

    return enter, leave
