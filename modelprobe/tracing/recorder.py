"""Runs a model once, under hooks and a dispatch mode, and returns what happened as a `Trace`."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from modelprobe.errors import ModelRaised, ProbeError
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.compiler_stand_in import compiler_loaded, compiler_stand_in
from modelprobe.tracing.completeness import gaps, handed_tensors, refusals_noted, transforms_noticed
from modelprobe.tracing.dispatch import Observer
from modelprobe.tracing.failures import (
    NeedsValuesError,
    by_compiler,
    explained,
    fails_anywhere,
    keep_run,
    lacks_values,
    mode_raised,
    model_errors,
    real_run_note,
    wants_gradients,
)
from modelprobe.tracing.formulas.plugins import installed_formulas
from modelprobe.tracing.module_calls import Running, followed_threads, is_script, watch
from modelprobe.tracing.module_tree import class_name, read_tree, walk
from modelprobe.tracing.prepare import (
    autocast_of_meta,
    has_lazies,
    hidden_operators,
    materialised,
    prepare_parts,
    unwrapped,
)
from modelprobe.tracing.records import FunctionCall, ModuleTree, TensorRef, Trace
from modelprobe.tracing.restore import (
    generator_states,
    mode_set,
    on_meta,
    own_mode,
    own_parameters,
    restored,
    seed_generators,
)
from modelprobe.tracing.tensors import TensorNumbers, copied, given_leaves, leaves, moved, shapes

T = TypeVar("T")
Follower = Callable[[Sequence[Tensor], Running], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Setting:
    """How a forward is recorded.

    `device`: "meta", or "real" where the weights are. `gradients`: under `no_grad` instead of inference mode, for a
    forward that differentiates; composite operators then arrive in parts. `differentiate`: with gradients turned on.
    `functions`: also the calls of torch's Python functions. `follow`: what else watches the forward.
    """

    device: str = "meta"
    train: bool = False
    gradients: bool = False
    functions: bool = False
    follow: Follower | None = None
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    differentiate: bool = False


def trace(
    model: nn.Module,
    *args: Any,
    device: str = "meta",
    train: bool = False,
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    functions: bool = False,
    follow: Follower | None = None,
) -> Trace:
    """Run `model(*args, **kwargs)` once and return its ledger. The model is left exactly as it was.

    With `device="meta"` no arithmetic is done and no weight is touched; a model that cannot run there (it depends on
    data, an operator has no kernel for `meta`) is run again where its weights are, with the tensors that were given,
    and a note says so. With `device="real"` it runs where its weights are from the start. A forward that differentiates
    is run again outside inference mode. `train` records a training-mode forward, `functions` also the calls of torch's
    Python functions (`Trace.functions`). `follow` is given the inputs of the forward and what tells which module runs,
    once for each forward that is tried, and returns a context for it. Random numbers are seeded with `env["seed"]`,
    else 0.
    Raises ModelRaised when the model raises, with the module and the shapes in flight; BadInput when real values
    are needed and the model or the inputs have none.
    """
    call_kwargs = dict(kwargs or {})
    model, said = unwrapped(model)
    said = [*notes, *said, *installed_formulas(), *hidden_operators(model)]
    setting = Setting(device, train, False, functions, follow, tuple(said), env or {})
    return where_it_runs(model, args, call_kwargs, setting, partial(lazies_ready, record=recorded))


def where_it_runs(model: nn.Module, args: Any, kwargs: Any, setting: Setting, record: Callable[..., T]) -> T:
    """What `record(model, args, kwargs, setting)` gives on `meta`, or else for real, with a note why.

    What is raised on `meta` may be for the lack of a kernel or of values: only where a real run, if there are weights
    and inputs for one, raises as well is it the model's.
    """
    if setting.device != "meta" or is_script(model):
        return record(model, args, kwargs, replace(setting, device="real"))
    try:
        return record(model, args, kwargs, setting)
    except (NeedsValuesError, ModelRaised) as raised:
        if fails_anywhere(raised) or lacks_values(model, args, kwargs):
            raise
        why = real_run_note(raised, "where its weights are")
        return record(model, args, kwargs, replace(setting, device="real", notes=(*setting.notes, why)))


def lazies_ready(model: nn.Module, args: Any, kwargs: Any, setting: Setting, record: Callable[..., T]) -> T:
    """`record` on the model, or on a copy of it whose lazy parameters have their shapes."""
    if not has_lazies(model):
        return record(model, args, kwargs, setting)
    said = Note("Lazy modules were given their shapes on a copy, by a first forward.", Level.INFO)
    twin = materialised(model, args, kwargs, setting.device == "meta")
    return record(twin, args, kwargs, replace(setting, notes=(*setting.notes, said)))


def recorded(model: nn.Module, args: Any, kwargs: Any, setting: Setting) -> Trace:
    """The ledger of one forward; of a second one where the first cannot be in inference mode.

    Inference mode stands in the way of a forward that differentiates or counts the versions of its tensors; one that
    differentiates without turning gradients on itself gets them turned on, and one that turned them on in vain is
    recorded again. Also once more when the forward itself brought in the compiler (`torch.cond` does), which would
    otherwise trace into our hooks: from then on compiled parts are run eagerly.
    """
    loaded = compiler_loaded()
    try:
        found, unheeded = _record(model, args, kwargs, setting)
    except ModelRaised as raised:
        if not loaded and by_compiler(raised.__cause__):
            return _record(model, args, kwargs, setting)[0]
        return _outside_inference_mode(model, args, kwargs, setting, raised)
    if not unheeded:
        return found
    try:
        again, _ = _record(model, args, kwargs, replace(setting, gradients=True))
    except ProbeError:
        return found
    # In inference mode composite operators arrive whole: where nothing else differs, that is easier to read.
    return found if (found.macs, found.flops) == (again.macs, again.flops) else again


def _outside_inference_mode(model: nn.Module, args: Any, kwargs: Any, setting: Setting, raised: ModelRaised) -> Trace:
    """The ledger of a forward that raised in inference mode, which may have been in its way; else raises that again."""
    try:
        return _record(model, args, kwargs, replace(setting, gradients=True))[0]
    except ProbeError as again:
        if not wants_gradients(again):
            raise raised from raised.__cause__
    try:
        return _record(model, args, kwargs, replace(setting, gradients=True, differentiate=True))[0]
    except ProbeError:
        raise raised from raised.__cause__


def _record(model: nn.Module, args: Any, kwargs: Any, setting: Setting) -> tuple[Trace, bool]:
    """The ledger, and whether the forward turned gradients on where inference mode did not let it."""
    meta = setting.device == "meta"
    tree = read_tree(model)
    values = TensorNumbers()
    values.register(model)
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        seed_generators(int(setting.env.get("seed", 0)))
        if not meta and own_mode(model):
            stack.enter_context(own_parameters(model, False, ()))
        args, kwargs = _placed(model, args, kwargs, meta, stack)
        with model_errors(partial(mode_raised, model)):
            said = stack.enter_context(mode_set(model, setting.train))
        prepare_parts(model, stack)
        named = _named(model, values)
        values.strangers.clear()  # those were the twins that the model holds on meta
        inputs = tuple(values.get(tensor) for _, tensor in given_leaves((args, kwargs)))
        for ref, (name, _) in zip(inputs, given_leaves({"input": args, **kwargs}), strict=True):
            named[ref.value] = name
        buffers = {path: (values.get(buffer), weakref.ref(buffer)) for path, buffer in _buffers(model)}
        running = _running(lambda: len(observer.ops), values, setting)
        values.registers = _registering(model, running)
        observer = _observer(values, running, setting)
        values.blocks.ran = lambda: len(observer.ops)
        watched = watch(model, running, stack)
        if not watched:
            running.enter([""], class_name(model), shapes((args, kwargs)))
        called = _watched_functions(running, observer, stack) if setting.functions else []
        generators = generator_states()
        try:
            out = _forward(model, args, kwargs, observer, running, setting)
        except ProbeError as raised:
            observer.ops += observer.unfinished()
            keep_run(raised.__cause__, _ledger(tree, observer, running, (inputs, ()), named, setting))
            raise
        drawn = generator_states()
        observer.origins.drew = ", ".join(name for name, state in generators.items() if drawn[name] != state)
        if not watched:
            running.leave(out)
        if values.strangers:  # a forward may register what it makes
            values.register(model)
        changed = _changed(model, buffers, observer.written)
        outputs = [(name, values.get(tensor)) for name, tensor in leaves(out)]
        values.blocks.open = False
    unasked = not meta and all(getattr(note, "kind", "") != "data-dependent" for note in setting.notes)
    told = (*said, *broken_notes(observer), *gaps(tree, observer, running, out, named, unasked))
    found = _ledger(tree, observer, running, (inputs, outputs), named, setting, changed, told, called)
    return found, observer.wants_gradients


def _ledger(
    tree: ModuleTree, observer: Observer, running: Running,
    ends: tuple[tuple[TensorRef, ...], Sequence[tuple[str, TensorRef]]], named: dict[int, str], setting: Setting,
    changed: frozenset[str] = frozenset(), told: Sequence[Note] = (), called: Sequence[FunctionCall] = (),
) -> Trace:  # fmt: skip
    """What was recorded; `ends` are the inputs, and the outputs with their names."""
    ops = tuple(observer.ops)
    return Trace(
        tree, ops, tuple(call.frozen(len(ops)) for call in running.calls), ends[0], tuple(ref for _, ref in ends[1]),
        named, changed, (*setting.notes, *told), dict(setting.env), tuple(observer.composites), tuple(called),
        observer.threads, observer.values.blocks.frozen(), tuple(name for name, _ in ends[1]),
    )  # fmt: skip


def _running(ops: Callable[[], int], values: TensorNumbers, setting: Setting) -> Running:
    if not setting.gradients:
        return Running(ops, values.has)
    from modelprobe.tracing.autograd import Numbered

    return Numbered(ops, values.has)


def _observer(values: TensorNumbers, running: Running, setting: Setting) -> Observer:
    if not setting.gradients:
        return Observer(values, running.where, setting.device == "meta")
    from modelprobe.tracing.autograd import Numbered, where_differentiated

    assert isinstance(running, Numbered)
    observer = Observer(values, where_differentiated(running), setting.device == "meta")
    observer.differentiates = True
    return observer


def _registering(model: nn.Module, running: Running) -> Callable[[Tensor], bool]:
    """Tells whether the running module has a parameter of its own that it had not before, brought in for each call."""
    modules: dict[str, nn.Module] = {}

    def registers(tensor: Tensor) -> bool:
        if not modules:
            modules.update(walk(model))
        module = modules.get(running.where()[0])
        return module is not None and any(known is tensor for known in module._parameters.values())

    return registers


def _watched_functions(running: Running, observer: Observer, stack: ExitStack) -> list[FunctionCall]:
    from modelprobe.tracing.torch_functions import watched_functions  # few recordings ask for them

    return stack.enter_context(watched_functions(running.where, lambda: len(observer.ops)))


def _placed(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], meta: bool, stack: ExitStack
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as the forward gets them: on meta beside the model's shapes, else copies of one's own."""
    if meta:
        stack.enter_context(on_meta(model))
        return moved_to_meta(args, kwargs)
    return copied(tuple(args)), copied(dict(kwargs))


def moved_to_meta(args: Any, kwargs: Any, leaf: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments on `meta`. Raises NeedsValuesError for layouts that `meta` does not have, as of nested tensors."""
    try:
        return moved(tuple(args), "meta", leaf), moved(dict(kwargs), "meta", leaf)
    except NotImplementedError as error:
        raise NeedsValuesError("", error) from error


def broken_notes(observer: Observer) -> list[Note]:
    """A warning for each formula that raised."""
    return [
        Note(f"The formula of {name} raised {why}; it is not counted.", Level.WARNING)
        for name, why in observer.broken.items()
    ]


def _forward(model: nn.Module, args: Any, kwargs: Any, observer: Observer, running: Running, setting: Setting) -> Any:
    explain = partial(explained, model, args, kwargs, setting.device, running)

    def modes() -> AbstractContextManager[Any]:
        if setting.differentiate:
            return torch.enable_grad()
        return torch.no_grad() if setting.gradients else torch.inference_mode()

    with ExitStack() as stack:
        stack.enter_context(model_errors(explain))
        stack.enter_context(compiler_stand_in())
        if setting.device == "meta":
            stack.enter_context(autocast_of_meta())
        stack.enter_context(threads_observed(observer, running, modes))
        if setting.device == "real":
            stack.enter_context(handed_tensors(partial(observer.origins.note_leaving, running.where)))
        else:  # there is nothing that numpy could take
            stack.enter_context(refusals_noted(observer.note_refusal, observer.known.of))
        stack.enter_context(observer.origins.watched(model))
        stack.enter_context(transforms_noticed(observer.note_gradients))
        given = [tensor for _, tensor in leaves((args, kwargs))]
        followed = setting.follow(given, running) if setting.follow is not None else nullcontext()
        for mode in (modes(), observer, followed, quiet_hooks()):
            stack.enter_context(mode)
        out = model(*args, **kwargs)
        if observer.refused is not None:
            raise NeedsValuesError(*observer.refused) from observer.refused[1]
        return out


@contextmanager
def threads_observed(
    observer: Observer, running: Running, modes: Callable[[], AbstractContextManager[Any]]
) -> Iterator[None]:
    """In the body, what other threads do for this one is written into the same ledger."""

    def here() -> Callable[[], AbstractContextManager[Any]]:
        giver = running.here()
        outer = giver.where()[1] if giver is not None else -1

        @contextmanager
        def entered() -> Iterator[None]:
            observer.threads = True
            with running.branch(outer) as branch, modes(), observer.twin(branch):
                yield

        return entered

    with followed_threads(here):
        yield


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


def _changed(model: nn.Module, before: Mapping[str, tuple[TensorRef, Any]], written: set[int]) -> frozenset[str]:
    """Buffers that the forward wrote to in place, or replaced by another tensor."""
    after = dict(_buffers(model))
    return frozenset(
        path for path, (value, held) in before.items() if value.storage in written or after.get(path) is not held()
    )
