"""What a recording borrows and gives back: the model's state, the global switches, the random generators."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.module_tree import class_name, refuse_without_values, state_tables, walk

Snapshot = list[tuple[nn.Module, dict[str, Any], dict[str, Any]]]

_CONTAINERS = (dict, list, set, OrderedDict)


class _FastPathOff:
    """While any thread is inside, the attention fast path is off; the last one to leave puts it back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.backends.mha.get_fastpath_enabled()
            self._inside += 1
            torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.mha.set_fastpath_enabled(self._before)


_FAST_PATH_OFF = _FastPathOff()


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Give back `model` and the process as they were, also when the body raises.

    Restored are every module's attributes (mode, hooks, buffers, parameters, anything that a forward cached), the
    values of buffers on real devices, the attention fast path, the default dtype, grad mode, and the random
    generators of the CPU, of the CUDA devices in use, of Python and of numpy. Inside, the attention fast path is off:
    under `eval()` it replaces whole encoder layers by operators whose parts cannot be told apart.
    """
    modules = list(model.modules())
    snapshot = _snapshot(modules)
    tables = (own.get("_parameters", {}) for _, own, _ in snapshot)
    wanting = [(tensor, tensor.requires_grad) for table in tables for tensor in table.values() if tensor is not None]
    scripts = [(module, module.training) for module in modules if _has_mode_in_script(module)]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if _is_real(buffer)]
    dtype = torch.get_default_dtype()
    rng, cuda_rng, others = torch.get_rng_state(), _cuda_rng(), _other_rng()
    try:
        with _FAST_PATH_OFF, ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(rng)
        if cuda_rng is not None:
            torch.cuda.set_rng_state_all(cuda_rng)
        for give_back, state in others:
            give_back(state)
        _restore(snapshot)
        for parameter, wanted in wanting:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
        for script, training in scripts:
            if script.training != training:
                script.train(training)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _is_real(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and tensor.layout is torch.strided and not tensor.is_quantized


def _has_mode_in_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) and hasattr(module, "training")


def _cuda_rng() -> list[torch.Tensor] | None:
    # Asking for the state would initialise CUDA: leave it alone unless somebody already has.
    cuda: Any = torch.cuda
    return list(cuda.get_rng_state_all()) if cuda.is_initialized() else None


def _other_rng() -> list[tuple[Callable[[Any], Any], Any]]:
    """The generators of Python and, where it is loaded, numpy: how to set each, and its state."""
    found: list[tuple[Callable[[Any], Any], Any]] = [(random.setstate, random.getstate())]
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        found.append((numpy.set_state, numpy.get_state()))
    return found


def seed_generators(seed: int) -> None:
    """Start the generators of Python, torch and numpy (where it is loaded) from `seed`; for use inside `restored`."""
    random.seed(seed)
    # Not `torch.manual_seed`: that seeds every CUDA device too, and would initialise CUDA.
    torch.default_generator.manual_seed(seed)
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        cuda.manual_seed_all(seed)
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed(seed % 2**32)


def _snapshot(modules: Sequence[nn.Module]) -> Snapshot:
    """Every module's own attributes, and a shallow copy of those that are containers (hooks, tables, caches)."""
    found: Snapshot = []
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its state lives in C++ and its attributes are views of it
        own = dict(module.__dict__)
        found.append((module, own, {key: value.copy() for key, value in own.items() if type(value) in _CONTAINERS}))
    return found


def _restore(snapshot: Snapshot) -> None:
    for module, own, containers in snapshot:
        for key, before in containers.items():
            current = own[key]
            if isinstance(current, list):
                current[:] = before
            else:
                current.clear()
                current.update(before)
        module.__dict__.clear()
        module.__dict__.update(own)


@contextmanager
def on_meta(model: nn.Module) -> Iterator[None]:
    """Let `model` hold its parameters and buffers as `meta` tensors of the same shapes; values stay untouched.

    To be used inside `restored`, which puts the real tensors back. Tied tensors stay tied, views of one memory stay
    views of one memory.
    """
    twins: dict[int, torch.Tensor] = {}
    memories: dict[int, Any] = {}
    for module in model.modules():
        for _, table in state_tables(module):
            for name, tensor in list(table.items()):
                if tensor is not None and not tensor.is_meta:
                    table[name] = twins.setdefault(id(tensor), meta_twin(tensor, memories))
    twins.clear()  # a buffer that the forward replaces is gone then
    memories.clear()
    yield


def meta_twin(tensor: torch.Tensor, memories: dict[int, Any]) -> torch.Tensor:
    """The tensor on `meta`; `memories` keeps what was given for each memory, so that views of one stay views of one."""
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor
    memory = tensor.untyped_storage()
    storage_class: Any = torch.UntypedStorage
    shared = memories.setdefault(memory._cdata, storage_class(memory.nbytes(), device="meta"))
    twin: Any = torch.empty(0, dtype=tensor.dtype, device="meta")
    with torch.no_grad():
        twin.set_(shared, tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


@contextmanager
def own_parameters(model: nn.Module, meta: bool, frozen: Collection[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Let `model` hold copies of its parameters (on `meta` shapes alone), whose gradients are nobody else's.

    To be used inside `restored`, which puts the parameters back. Tied ones stay tied; those that go by a name in
    `frozen` want no gradient. Gives the copies by their first names.
    """
    names: dict[int, list[str]] = {}
    originals: dict[int, nn.Parameter] = {}
    for path, module in walk(model):
        for name, tensor in module._parameters.items():
            if tensor is not None:
                names.setdefault(id(tensor), []).append(f"{path}.{name}" if path else name)
                originals[id(tensor)] = tensor
    memories: dict[int, Any] = {}
    copies: dict[int, nn.Parameter] = {}
    for key, tensor in originals.items():
        twin = meta_twin(tensor, memories).detach() if meta else tensor.detach().clone()
        copies[key] = nn.Parameter(twin, tensor.requires_grad and not any(name in frozen for name in names[key]))
    for module in model.modules():
        _exchange(module, copies)
    yield {names[key][0]: copy for key, copy in copies.items()}


def _exchange(module: nn.Module, copies: dict[int, nn.Parameter]) -> None:
    """Put the copies where the parameters stand: in their table, and in attributes and lists (as an LSTM's)."""
    for own in (module._parameters, module.__dict__):
        for name, value in own.items():
            if id(value) in copies:
                own[name] = copies[id(value)]
            elif type(value) is list:
                value[:] = [copies.get(id(item), item) for item in value]


@contextmanager
def mode_set(model: nn.Module, train: bool) -> Iterator[list[Note]]:
    """Put the model into train or eval mode as its owner would, by its own `train()`. To be used inside `restored`.

    Overridden, it may do more than set flags: freeze parameters, keep batch norm in eval mode, merge weights. Gives a
    note where parts stay in the mode that they have.
    """
    said: list[Note] = []
    if isinstance(model, torch.jit.ScriptModule):
        if _has_mode_in_script(model):
            model.train(train)
    else:
        try:
            _put(model, train)
        except NotImplementedError:
            exported = _exported_modules(model)
            if not exported:
                raise
            for module in exported:
                for name in ("train", "eval"):  # they refuse; those of the class set flags that no graph asks for
                    del module.__dict__[name]
            _put(model, train)
            text = "What torch.export made stays in the mode, training or evaluation, that it was exported in."
            said.append(Note(text, Level.INFO))
    yield said


def _put(model: nn.Module, train: bool) -> None:
    if train:
        model.train()
    else:
        model.eval()


def _exported_modules(model: nn.Module) -> list[nn.Module]:
    home = "torch.export.exported_program"
    return [module for module in model.modules() if getattr(vars(module).get("train"), "__module__", "") == home]


def own_mode(model: nn.Module) -> bool:
    """Whether a module overrides `train()` or `eval()`, which may then write to the values of weights."""
    plain = nn.Module.train, nn.Module.eval
    return any(
        (type(module).train, type(module).eval) != plain
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    )


def generator_states() -> dict[str, Any]:
    """Where the generators of Python and numpy stand, by the names of their libraries."""
    found: dict[str, Any] = {"random": random.getstate()}
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        state: Any = numpy.get_state(legacy=False)["state"]
        found["numpy.random"] = (state["pos"], state["key"].tobytes())
    return found


class RandomDraws:
    """Seeds the generators before each call of a model; `libraries` are those whose numbers it drew, in order."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.libraries: dict[str, None] = {}
        self._before: dict[str, Any] = {}

    def watch(self, model: nn.Module) -> None:
        """Look at each call of `model` from now on. A script takes no hooks: of one nothing is known."""
        if isinstance(model, torch.jit.ScriptModule):
            return
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self.look, always_call=True)

    @property
    def text(self) -> str:
        """What is to be said; empty where nothing was drawn."""
        if not self.libraries:
            return ""
        return (
            f"The forward draws random numbers ({', '.join(self.libraries)}), which eval mode does not turn off: each "
            f"call was seeded with {self.seed}, and with another --seed the answer is another."
        )

    def _start(self, *_: Any) -> None:
        seed_generators(self.seed)
        self._before = _all_states()

    def look(self, *_: Any) -> None:
        """See what has been drawn since the call began. Of one that is stopped on its way no hook hears."""
        if self._before:
            after, before, self._before = _all_states(), self._before, {}
            self.libraries.update({name: None for name, state in before.items() if after.get(name) != state})


@contextmanager
def seeded_eval(model: nn.Module) -> Iterator[RandomDraws]:
    """Run in eval mode and leave the model as it was; a UserWarning tells of random numbers that a call drew."""
    refuse_without_values(model)
    draws = RandomDraws()
    with restored(model), mode_set(model, False):
        draws.watch(model)
        yield draws
    if draws.libraries:
        drawn = f"draws random numbers in eval mode ({', '.join(draws.libraries)}): each call was seeded with 0"
        warnings.warn(f"{class_name(model)} {drawn}", stacklevel=4)


def _all_states() -> dict[str, Any]:
    found = {"torch": _bytes_of(torch.default_generator.get_state()), **generator_states()}
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        found["torch.cuda"] = [_bytes_of(state) for state in cuda.get_rng_state_all()]
    return found


def _bytes_of(state: torch.Tensor) -> bytes:
    """Read without an operator, which a recording would take for one of the model's."""
    return ctypes.string_at(state.data_ptr(), state.numel())
