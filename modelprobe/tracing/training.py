"""Runs one training step's forward and backward pass, and returns what happened as a `TrainingTrace`.

The forward is recorded twice: once as every forward is, so that its figures are those of `Trace`, and once more under
autograd, where composite operators arrive in parts; of that run the backward pass is kept. Attention is computed in
its plain form there, so that the same operators are seen on every device.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modelprobe.errors import BadInput, ModelRaised, ProbeError, one_line
from modelprobe.report.blocks import Note
from modelprobe.tracing.autograd import GradientObserver, Numbered, Step, weight_parts
from modelprobe.tracing.compiler_stand_in import compiler_loaded, compiler_stand_in
from modelprobe.tracing.failures import (
    NeedsValuesError,
    asks_for_values,
    explained,
    mode_raised,
    model_errors,
)
from modelprobe.tracing.formulas.plugins import installed_formulas
from modelprobe.tracing.module_calls import is_script, watch
from modelprobe.tracing.module_tree import class_name, walk
from modelprobe.tracing.prepare import autocast_of_meta, prepare_parts, unwrapped
from modelprobe.tracing.recorder import (
    Setting,
    broken_notes,
    lazies_ready,
    moved_to_meta,
    quiet_hooks,
    recorded,
    threads_observed,
    where_it_runs,
)
from modelprobe.tracing.records import Trace
from modelprobe.tracing.restore import mode_set, on_meta, own_parameters, restored, seed_generators
from modelprobe.tracing.step_records import GradientOp, TrainingTrace
from modelprobe.tracing.tensors import TensorNumbers, copied, given_leaves, leaves


def record_training(
    model: nn.Module,
    *args: Any,
    device: str = "meta",
    freeze: Collection[str] = (),
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> TrainingTrace:
    """Run `model(*args, **kwargs)` in training mode, and backward from the sum of its outputs. Nothing is left behind.

    `device` is as for `trace`. `freeze` holds names of parameters that shall want no gradient. Every floating output
    that depends on a trainable parameter takes part in the sum.
    Raises BadInput when there is none, ModelRaised when the model raises in either direction.
    """
    call_kwargs = dict(kwargs or {})
    model, said = unwrapped(model)
    refuse_scripts(model)
    setting = Setting(device, True, notes=(*notes, *said, *installed_formulas()), env=env or {})
    step = partial(_recorded, freeze=freeze)
    return where_it_runs(model, args, call_kwargs, setting, partial(lazies_ready, record=step))


def refuse_scripts(model: nn.Module) -> None:
    script = next((path or "the model" for path, module in walk(model) if is_script(module)), None)
    if script is not None:
        raise BadInput(
            f"{script} is TorchScript, which runs its backward pass where nobody can watch it",
            "give the module as it was before torch.jit.script or torch.jit.trace",
        )


def _recorded(model: nn.Module, args: Any, kwargs: Any, setting: Setting, freeze: Collection[str]) -> TrainingTrace:
    forward = _plain_forward(model, args, kwargs, setting)
    return _differentiated(model, args, kwargs, setting, freeze, forward)


def _plain_forward(model: nn.Module, args: Any, kwargs: Any, setting: Setting) -> Trace:
    with ExitStack() as stack:
        # The plain recording wants no gradients, which checkpointing remarks on.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        if setting.device == "real":  # where a forward of training may write to its weights
            stack.enter_context(restored(model))
            stack.enter_context(own_parameters(model, False, ()))
        loaded = compiler_loaded()
        found = recorded(model, args, kwargs, setting)
        # Checkpointing may import the compiler, and older releases compute something while they do.
        return found if loaded or not compiler_loaded() else recorded(model, args, kwargs, setting)


def _differentiated(
    model: nn.Module, args: Any, kwargs: Any, setting: Setting, freeze: Collection[str], forward: Trace
) -> TrainingTrace:
    device, meta, values = setting.device, setting.device == "meta", TensorNumbers()
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        seed_generators(int(setting.env.get("seed", 0)))
        parameters = stack.enter_context(own_parameters(model, meta, freeze))
        if meta:
            stack.enter_context(on_meta(model))
            args, kwargs = moved_to_meta(args, kwargs, leaf=True)
        else:
            args, kwargs = copied(tuple(args), leaf=True), copied(dict(kwargs), leaf=True)
        with model_errors(partial(mode_raised, model)):
            stack.enter_context(mode_set(model, True))
        prepare_parts(model, stack)
        if meta:
            stack.enter_context(autocast_of_meta())
        stack.enter_context(_plain_kernels(model))
        running = Numbered(lambda: len(observer.steps), values.has)
        homes = {id(parameter): name.rpartition(".")[0] for name, parameter in parameters.items()}
        observer = GradientObserver(values, running, homes, meta)
        observer.depends_on_input(tensor for _, tensor in given_leaves((args, kwargs)))
        watch(model, running, stack)
        outputs = outputs_with_gradients(
            _forward_with_gradients(model, args, kwargs, observer, running, device), parameters
        )
        _run_backward(model, list(outputs.values()), observer, running, device)
        gradients = {name: parameter.grad is not None for name, parameter in parameters.items()}
        wanting = {name for name, parameter in parameters.items() if parameter.requires_grad}
    return TrainingTrace(
        forward=forward,
        gradients=_gradients(observer.steps),
        summed=tuple(outputs),
        trained=frozenset(name for name, got in gradients.items() if got),
        frozen=frozenset(parameters) - wanting,
        unreached=tuple(name for name, got in gradients.items() if name in wanting and not got),
        forward_macs=sum(step.op.macs for step in observer.steps if step.phase == "forward"),
        notes=(*forward.notes, *(note for note in broken_notes(observer) if note not in forward.notes)),
    )


@contextmanager
def _plain_kernels(model: nn.Module) -> Iterator[None]:
    """No kernel that fuses attention or a whole recurrent layer: which of them there are depends on the device."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn] if recurrent else []
    with sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
        for backend in backends:  # not by assignment, which `torch.backends.disable_global_flags` forbids
            stack.enter_context(backend.flags(enabled=False))
        yield


def _forward_with_gradients(
    model: nn.Module, args: Any, kwargs: Any, observer: GradientObserver, running: Numbered, device: str
) -> Any:
    explain = partial(explained, model, args, kwargs, device, running)
    threads = threads_observed(observer, running, torch.enable_grad)
    with model_errors(explain), compiler_stand_in(), threads, torch.enable_grad(), observer, quiet_hooks():
        return model(*args, **kwargs)


def outputs_with_gradients(out: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The outputs that gradients flow from, by name. Raises BadInput when there is none."""
    found: dict[str, Tensor] = {}
    for name, tensor in leaves(out, "output" if isinstance(out, Tensor) else ""):
        if tensor.requires_grad and all(tensor is not known for known in found.values()):
            found[name or f"output {len(found)}"] = tensor
    if found:
        return found
    if not parameters:
        raise BadInput(
            "the model has no parameters to train",
            "buffers and quantized weights are not parameters: give the model with its float weights",
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise BadInput("nothing would train: every parameter is frozen", "freeze fewer of them")
    raise BadInput(
        "no output depends on a parameter that trains, so there is nothing to differentiate",
        "the model runs under torch.no_grad, detaches what it returns, or returns no floating-point tensor",
    )


def _run_backward(
    model: nn.Module, outputs: Sequence[Tensor], observer: GradientObserver, running: Numbered, device: str
) -> None:
    running.failed = None
    observer.start_backward()

    def explain(error: BaseException) -> ProbeError:
        path = running.failed[0] if running.failed else observer.last_place()
        if device == "meta" and asks_for_values(error):
            return NeedsValuesError(path, error)
        where = f"{class_name(model)}.{path}" if path else class_name(model)
        return ModelRaised(
            f"the backward pass of {where} raised {type(error).__name__}: {one_line(error)}",
            "it does when it is trained as well; --debug shows the traceback",
        )

    with model_errors(explain), compiler_stand_in():
        ones = [_ones_like(tensor) for tensor in outputs]
        with observer, quiet_hooks():
            torch.autograd.backward(outputs, ones)


def _ones_like(tensor: Tensor) -> Tensor:
    """The gradient of a sum with respect to a tensor that is added up."""
    if tensor.layout is not torch.strided:
        ones = tensor.detach().clone()
        values: Tensor = ones._values() if ones.layout is torch.sparse_coo else ones.values()
        values.fill_(1)
        return ones
    # On meta `ones_like` would import half of torch; values do not matter there.
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if tensor.is_meta else torch.ones_like(tensor)


def _gradients(steps: Sequence[Step]) -> tuple[GradientOp, ...]:
    found = []
    for step, part in zip(steps, weight_parts(steps), strict=True):
        if step.phase != "forward":
            found.append(GradientOp(step.op, step.phase, step.node, part.macs, part.flops))
    return tuple(found)
