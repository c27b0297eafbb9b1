"""Runs a forward pass or training steps, and returns when each block of memory was taken and given back.

A dispatch mode below autograd sees every operator, and so the first tensor on every storage; a weak reference tells
when the storage is gone. What a CPU kernel takes and frees inside one operator is added from `inside_kernels`.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.cost.memory.attention_kernels import bias_in_place, fused_attention
from modelprobe.cost.memory.autocast import autocast_on_meta, autocast_type
from modelprobe.cost.memory.gpu_workspaces import workspace_of_gpu
from modelprobe.cost.memory.inside_kernels import bytes_inside
from modelprobe.cost.memory.not_recorded import not_recorded
from modelprobe.cost.memory.recurrent import LAYER, LAYERS_OF_CPU, layer_of_cpu, recurrent_layers
from modelprobe.cost.memory.steps import StepSetting, checkpointing, run_steps
from modelprobe.errors import ModelRaised
from modelprobe.report.blocks import Note
from modelprobe.tracing.autograd import LEAF, Numbered
from modelprobe.tracing.compiler_stand_in import compiler_stand_in
from modelprobe.tracing.dispatch import describe_operator
from modelprobe.tracing.failures import explained, mode_raised, model_errors, wants_gradients
from modelprobe.tracing.meta_results import MetaResults
from modelprobe.tracing.module_calls import watch
from modelprobe.tracing.prepare import prepare_parts, unwrapped
from modelprobe.tracing.recorder import Setting, lazies_ready, moved_to_meta, quiet_hooks, where_it_runs
from modelprobe.tracing.restore import mode_set, on_meta, own_parameters, restored, seed_generators
from modelprobe.tracing.step_records import MemoryBlock, MemoryEvent, MemoryTrace
from modelprobe.tracing.tensors import copied, given_leaves
from modelprobe.tracing.training import refuse_scripts

_ONE_AT_A_TIME = threading.RLock()
"""Functions of torch are replaced while a run is followed: another thread's recording waits."""


def record_memory(
    model: nn.Module,
    *args: Any,
    device: str = "meta",
    step: StepSetting | None = None,
    like: str = "cpu",
    amp: bool = False,
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> MemoryTrace:
    """Run `model(*args, **kwargs)` once without gradients, or the training steps of `step`, and follow its memory.

    `device` is as for `trace`; `like` names the device whose attention kernels are taken: cpu or cuda. `amp` runs the
    forward under its autocast.
    Raises BadInput when nothing would train, ModelRaised when the model raises.
    """
    model, said = unwrapped(model)
    if step is not None:
        refuse_scripts(model)
    more = {"loss": str(getattr(step.loss, "__qualname__", step.loss))} if step is not None and step.loss else {}
    if amp:
        more["autocast"] = str(autocast_type(like)).removeprefix("torch.")
    setting = Setting(device, step is not None, notes=(*notes, *said), env={**(env or {}), **more})
    if amp and step is not None:
        step = replace(step, autocast=like)
    record = partial(_followed, step=step, like=like, amp=amp)
    with _ONE_AT_A_TIME:
        try:
            return where_it_runs(model, args, dict(kwargs or {}), setting, partial(lazies_ready, record=record))
        except ModelRaised as raised:
            if step is not None or setting.differentiate or not wants_gradients(raised):
                raise
            setting = replace(setting, differentiate=True)
            return where_it_runs(model, args, dict(kwargs or {}), setting, partial(lazies_ready, record=record))


class _Calls(Numbered):
    """Which module runs. An exception is let go at the outermost one: checkpointing ends a recomputation by one, whose
    frames hold what was computed."""

    def leave(self, outputs: Any, layer: bool = False) -> None:
        """A module ends."""
        super().leave(outputs, layer)
        if not self.stack:
            self.failure = None


FORMAT_KEPT = {"aten.convolution": 2, "aten.constant_pad_nd": 1, "aten.native_group_norm": 1}
"""Operators that keep channels last on devices but not on `meta` -> how many operands say so."""

_Mode: Any = TorchDispatchMode  # whose methods have no types in some releases of torch


class _Follower(_Mode):  # type: ignore[misc]
    """The dispatch mode; `phase` is set from outside."""

    def __init__(self, running: Numbered, homes: dict[int, str], like: str) -> None:
        super().__init__()
        self._like = like
        self.blocks: list[MemoryBlock] = []
        self.events: list[MemoryEvent] = []
        self.phase, self.step = "start", 0
        self._running, self._homes = running, homes
        self._known: dict[int, tuple[Any, MemoryBlock]] = {}
        self._thread = threading.get_ident()
        self._operator = self._module = ""
        self.unregistered: dict[int, nn.Parameter] = {}
        self.open = True
        self._results, self._pure = MetaResults(f"memory of {like}"), dict[Any, bool]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as the observer of a ledger: the base class would import the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._operator, self._module = str(func.name()).replace("::", ".").partition("/")[0], self._where()
        if (pure := self._pure.get(func)) is None:
            pure = self._pure[func] = describe_operator(func).pure
        out = self._results.call(func, args, kwargs or {}) if pure else func(*args, **(kwargs or {}))
        if self._operator in FORMAT_KEPT:
            operands = args[: FORMAT_KEPT[self._operator]]
            if isinstance(out, Tensor):
                out = _in_format_of_operands(out, operands)
            else:
                out = (_in_format_of_operands(out[0], operands), *out[1:])
        for tensor in _tensors_among((args, kwargs) if kwargs else args):
            block = self._block(tensor, "activation", False)
            if block is not None:
                block.last_used_by, block.last_used_in = self._operator, self._module
                block.last_used_phase = self.phase
            known = block is not None and block.role == "weight"  # another parameter of the same memory
            if isinstance(tensor, nn.Parameter) and id(tensor) not in self._homes and not known:
                self.unregistered[id(tensor)] = tensor
                self.note((tensor,), "weight")
        if self._like == "cpu" and self._operator in LAYERS_OF_CPU:
            inside, workspace = layer_of_cpu(self._operator, func, args)
            self._inside_kernel(inside)
            if self._operator == LAYER and out[3].is_meta:
                out = (*out[:3], out[3].new_empty(workspace, dtype=torch.uint8))
        elif self._like == "cpu":
            self._inside_kernel(bytes_inside(self._operator, func, args, kwargs or {}))
        for tensor in _tensors_among((out,)):
            self._block(tensor, "activation", True)
        if self._like == "cuda":
            self._inside_kernel(workspace_of_gpu(self._operator, args, out))
        return out

    def note(self, tensors: Iterable[Tensor], role: str) -> None:
        """These tensors are weights, inputs, gradients, …, whoever made them."""
        for tensor in tensors:
            block = self._block(tensor, role, True)
            if block is not None:
                block.role = role

    def _inside_kernel(self, nbytes: int) -> None:
        """A kernel takes that much and gives it back before it returns."""
        if not nbytes:
            return
        block = MemoryBlock(
            len(self.blocks), nbytes, "kernel", self._operator, self._module, self.phase, self._like,
            made=len(self.events),
        )  # fmt: skip
        self.blocks.append(block)
        self._add(block, True)
        self._freed(block, 0)

    def end_forward(self) -> None:
        """What is alive now outlives the forward."""
        for _, block in self._known.values():
            block.kept = True

    def _block(self, tensor: Tensor, role: str, new: bool) -> MemoryBlock | None:
        try:
            memory = tensor.untyped_storage()
            key, nbytes = memory._cdata, memory.nbytes()
        except (NotImplementedError, RuntimeError):  # sparse layouts
            return None
        known = self._known.get(key)
        if known is not None and known[1].nbytes == nbytes:
            return known[1]
        if known is not None:  # resized in place
            self._freed(known[1], key)
        elif not new and nbytes <= 8 and self.phase != "start":
            return None  # a number that Python made into a tensor
        block = MemoryBlock(
            len(self.blocks), nbytes, role, self._operator, self._module, self.phase, tensor.device.type,
            made=len(self.events),
        )  # fmt: skip
        self.blocks.append(block)
        self._add(block, True)
        gone = weakref.ref(memory, partial(self._storage_gone, block, key))
        self._known[key] = (gone, block)
        return block

    def _storage_gone(self, block: MemoryBlock, key: int, _: Any) -> None:
        self._freed(block, key)

    def _freed(self, block: MemoryBlock, key: int) -> None:
        if not self.open or block.freed >= 0:
            return
        block.freed = len(self.events)
        self._add(block, False)
        known = self._known.get(key)
        if known is not None and known[1] is block:
            del self._known[key]

    def _add(self, block: MemoryBlock, taken: bool) -> None:
        self.events.append(MemoryEvent(block.number, taken, self._operator, self._module, self.phase, self.step))

    def _where(self) -> str:
        if self.phase != "backward" or self._running.stack:
            return self._running.where()[0]
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return ""
        if node.name() == LEAF:
            return self._homes.get(id(node.variable), "")
        return self._running.owner(node._sequence_nr(), self._thread)


def _in_format_of_operands(out: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """A result on `meta` as devices make it: channels last where an operand is."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(out.dim())
    if not out.is_meta or last is None or not any(map(_channels_last, operands)):
        return out
    return torch.empty_like(out, memory_format=last)


def _channels_last(tensor: Tensor) -> bool:
    """As torch tells it, by strides alone: slices too."""
    if tensor.stride(1) == 0 or 0 in tensor.shape:
        return False
    least, dims = 0, (1, *range(tensor.dim() - 1, 1, -1), 0)
    for dim in dims:
        step, extent = tensor.stride(dim), tensor.shape[dim]
        if step < least or (dim == 0 and least == tensor.stride(1)):
            return False
        least = step * extent if extent > 1 else step
    return True


def _tensors_among(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_among(value)
        elif isinstance(value, dict):
            yield from _tensors_among(value.values())


def _followed(
    model: nn.Module, args: Any, kwargs: Any, setting: Setting, step: StepSetting | None, like: str, amp: bool,
) -> MemoryTrace:  # fmt: skip
    meta = setting.device == "meta"
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        seed_generators(int(setting.env.get("seed", 0)))
        parameters = stack.enter_context(own_parameters(model, meta, step.freeze if step else ()))
        if meta:
            stack.enter_context(on_meta(model))
            args, kwargs = moved_to_meta(args, kwargs, leaf=step is not None)
            stack.enter_context(fused_attention(like))
            stack.enter_context(bias_in_place())
            stack.enter_context(recurrent_layers(like))
        else:
            args, kwargs = copied(tuple(args), leaf=step is not None), copied(dict(kwargs), leaf=step is not None)
        if amp or meta:
            stack.enter_context(autocast_on_meta(like))
        with model_errors(partial(mode_raised, model)):
            stack.enter_context(mode_set(model, step is not None))
        prepare_parts(model, stack)
        if step is not None and step.checkpointed:
            stack.enter_context(checkpointing(model, step.checkpointed))
        running = _Calls(lambda: 0, lambda tensor: True)
        homes = {id(parameter): name.rpartition(".")[0] for name, parameter in parameters.items()}
        follower = _Follower(running, homes, like)
        follower.note(parameters.values(), "weight")
        follower.note((buffer for buffer in model.buffers() if isinstance(buffer, Tensor)), "buffer")
        follower.note((tensor for _, tensor in given_leaves((args, kwargs))), "input")
        start = len(follower.events)
        watch(model, running, stack)
        stack.enter_context(compiler_stand_in())
        stack.enter_context(quiet_hooks())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        explain = partial(explained, model, args, kwargs, setting.device, running)
        try:
            if step is not None:
                run_steps(model, args, kwargs, step, parameters, follower, explain)
            else:
                follower.phase = "forward"
                cast = torch.autocast(like) if amp else nullcontext()
                with model_errors(explain), torch.set_grad_enabled(setting.differentiate), follower, cast:
                    out = model(*args, **kwargs)
                    del out
        finally:
            follower.open = False
    notes = (*setting.notes, *not_recorded(model, follower, like, step is not None))
    steps = step.steps if step else 0
    return MemoryTrace(tuple(follower.blocks), tuple(follower.events), start, steps, notes, dict(setting.env))
