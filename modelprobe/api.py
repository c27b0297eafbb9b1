"""The Python functions: what the commands answer, of a model object.

Every function takes a model with example inputs, or a `Trace` of it; the model is left exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from modelprobe.cost.buffers import BuffersResult, buffers_of
from modelprobe.cost.data_dependent import cost_bounds
from modelprobe.cost.flops import By, FlopsResult, flops_of
from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.estimate import LIKE, MemoryResult, estimate_of
from modelprobe.cost.memory.steps import step_setting
from modelprobe.cost.params import ParamsResult, parameters_of
from modelprobe.cost.patterns import split_patterns
from modelprobe.cost.rollup import ALL_ROWS
from modelprobe.cost.summary import Summary, summary_of
from modelprobe.cost.traces.saved import load_forward, save_run
from modelprobe.cost.training import TrainingResult, training_cost
from modelprobe.cost.training_step import frozen_names
from modelprobe.environment import brief
from modelprobe.errors import BadInput
from modelprobe.tracing.module_tree import (
    check_module,
    class_name,
    read_tree,
    refuse_what_torch_cannot_walk,
    saved_names,
)
from modelprobe.tracing.recorder import trace as _trace
from modelprobe.tracing.records import Trace
from modelprobe.tracing.training import record_training

if TYPE_CHECKING:
    from modelprobe.cost.timing.measure import ProfileResult


def trace(
    model: nn.Module | str,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    device: str = "meta",
    train: bool = False,
) -> Trace:
    """Run `model(*inputs, **kwargs)` once and return its ledger.

    `model` may be what the command line takes (`"resnet18"`, `"net.py:Net"`); without inputs, those that it declares
    are taken. Inputs that are all shapes, as `(1, 3, 224, 224)`, stand for random tensors of the model's dtype.
    By default nothing is computed: the forward runs on `meta` copies of the weights' shapes, and for real, on the
    model's own device, only when the model asks for values. `device="real"` runs it for real from the start.
    Raises ModelRaised when the model raises, with the module and the shapes in flight.
    """
    _check_device(device)
    if isinstance(model, str):
        return _trace_of_target(model, inputs, kwargs, device, train)
    check_module(model, "trace")
    refuse_what_torch_cannot_walk(model)
    env = {**brief(), "model": class_name(model), "device": device, "mode": "train" if train else "eval"}
    inputs = _tensors_of_shapes(model, inputs)
    return _trace(model, *inputs, kwargs=kwargs, device=device, train=train, env=env)


def _trace_of_target(
    target: str, inputs: Sequence[Any], kwargs: Mapping[str, Any] | None, device: str, train: bool
) -> Trace:
    from modelprobe.model.build import TargetRequest, load_model, record

    if kwargs or not all(map(_is_shape, inputs)):
        raise BadInput(f"{target!r} takes shapes as inputs", "for example (1, 3, 224, 224), or build the model first")
    shapes = tuple("x".join(map(str, shape)) for shape in inputs)
    asked = TargetRequest(target, inputs=shapes, device=None if device == "meta" else "cpu")
    return record(load_model(asked), train=train)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(type(size) is int for size in value)


def _tensors_of_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors in the place of inputs that are all shapes."""
    if not inputs or not all(map(_is_shape, inputs)):
        return inputs
    kind = next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)
    place = next((value.device for value in model.parameters()), torch.device("cpu"))
    chance = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=chance, device="cpu").to(place, kind) for shape in inputs)


def _check_device(device: str) -> None:
    if device not in ("meta", "real"):
        move = "move the model, then device='real'"
        raise BadInput(f"device={device!r}: a forward runs on 'meta', or on the model's own device ('real')", move)


def _all_levels(depth: int | None) -> int:
    whole = _whole_number(depth, "depth")
    return ALL_ROWS if whole is None else whole


def _whole_number(given: int | None, name: str) -> int | None:
    if given is not None and (type(given) is not int or given < 0):
        raise BadInput(f"{name}={given!r} is no whole number from 0", f"for example {name}=2, or leave {name} out")
    return given


def count_flops(
    model: nn.Module | Trace | str,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    by: By = "module",
    depth: int | None = None,
    top: int | None = None,
) -> FlopsResult:
    """MACs, FLOPs, activations and bytes of a forward pass, by `module`, `operator`, `kind` or `call`.

    Without `depth` the result holds every level; printed it is as deep as about forty rows go.
    """
    if by not in get_args(By):
        raise BadInput(f"a forward has no rows by {by!r}", f"choose one of {', '.join(get_args(By))}")
    recorded = _trace_of(model, inputs, kwargs)
    found = flops_of(recorded, by=by, depth=_all_levels(depth), top=_whole_number(top, "top"))
    return found if isinstance(model, (Trace, str)) else replace(found, ranges=cost_bounds(model, recorded))


def count_training(
    model: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    freeze: str | Sequence[str] = (),
    optimizer: str = "sgd",
    device: str = "meta",
    by: str = "module",
    depth: int | None = None,
    top: int | None = None,
) -> TrainingResult:
    """MACs and FLOPs of a training step: forward, backward, recomputation and the update, by module, operator or kind.

    The backward pass starts from the sum of the outputs. `freeze` holds patterns such as `"conv1,layer1.*"`,
    `optimizer` is sgd, sgd-momentum, adam or adamw, `device` as for `trace`. Raises BadInput when nothing would train,
    ModelRaised when the model raises, in either direction.
    """
    check_module(model, "count_training")
    _check_device(device)
    env = {**brief(), "model": class_name(model), "device": device, "mode": "train"}
    frozen = frozen_names(model, [freeze] if isinstance(freeze, str) else freeze)
    found = record_training(model, *inputs, kwargs=kwargs, device=device, freeze=frozen, env=env)
    return training_cost(found, optimizer=optimizer, by=by, depth=_all_levels(depth), top=_whole_number(top, "top"))


def estimate_memory(
    model: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    train: bool = False,
    optimizer: str = "sgd",
    freeze: str | Sequence[str] = (),
    loss: Callable[[Any], Any] | None = None,
    amp: bool = False,
    device: str = "cpu",
    context: int = 0,
) -> MemoryResult:
    """Peak bytes of inference, or of a training step (`train`), recorded from shapes alone.

    `device` is whose kernels and allocator are meant, cpu or cuda; none is needed. `optimizer`, `freeze` and `loss` (of
    what the forward returns; else the sum of the outputs) are of the training step, `amp` is autocast to that device's
    lower precision, `context` bytes are outside torch's allocator on a GPU. Raises BadInput, ModelRaised.
    """
    check_module(model, "estimate_memory")
    if device not in LIKE:
        raise BadInput(f"memory on {device!r} is not known", f"choose one of {', '.join(LIKE)}")
    frozen = frozen_names(model, [freeze] if isinstance(freeze, str) else freeze)
    step = replace(step_setting(optimizer, frozen, device), loss=loss) if train else None
    env = {**brief(), "model": class_name(model), "device": "meta", "mode": "train" if train else "eval"}
    found = record_memory(model, *inputs, kwargs=kwargs, step=step, like=device, amp=amp, env=env)
    return estimate_of(found, like=device, optimizer=optimizer, context=context)


def profile(
    model: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    seconds: float = 2.0,
    threads: int | None = None,
    train: bool = False,
    optimizer: str = "sgd",
    freeze: str | Sequence[str] = (),
    loss: Callable[[Any], Any] | None = None,
    amp: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    by: str | None = None,
) -> ProfileResult:
    """Time of `model(*inputs, **kwargs)` where the model is, in eval mode without gradients: median, spread, samples.

    `seconds` is about how long samples are taken, `threads` those of the CPU. `train` times a training step, whose
    `optimizer`, `freeze` and `loss` are as for `estimate_memory`; `amp`, `channels_last` and `compile` say how it is
    run. `by` ("layer" or "operator") adds where the time goes, of a step by forward, backward and optimizer too. The
    model is left as it was. Raises BadInput for a setting that cannot be, ModelRaised.
    """
    check_module(model, "profile")
    from modelprobe.cost.timing.of_module import profile_module
    from modelprobe.cost.timing.passes import TimingSetting

    setting = TimingSetting(threads, amp, channels_last, compile)
    if train:
        place = next((parameter.device.type for parameter in model.parameters()), "cpu")
        frozen = frozen_names(model, [freeze] if isinstance(freeze, str) else freeze)
        setting = replace(setting, step=replace(step_setting(optimizer, frozen, place), loss=loss))
    return profile_module(model, inputs, dict(kwargs or {}), seconds, setting, by)


def save_trace(recorded: Trace, path: str | Path, force: bool = False) -> None:
    """Keep a recorded forward pass as a file named `.mptrace`, which commands take in place of the model.

    Raises BadInput for another suffix, and where the file exists unless `force`.
    """
    save_run(Path(path), force, forward=recorded)


def load_trace(path: str | Path) -> Trace:
    """The forward pass that a trace file holds. Raises BadInput for a file that is none, or that contradicts itself."""
    return load_forward(str(path))[0]


def summarize(
    model: nn.Module | Trace | str,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    depth: int | None = None,
    columns: Sequence[str] = (),
    folded: bool = True,
) -> Summary:
    """The layer tree with shapes, parameters and MACs. `columns` as for the command's `--columns`."""
    return summary_of(_trace_of(model, inputs, kwargs), depth=_all_levels(depth), columns=columns, folded=folded)


def count_params(
    model: nn.Module | Trace, *, depth: int | None = None, freeze: str | Sequence[str] = ()
) -> ParamsResult:
    """Parameters by module, dtype and optimizer group; `freeze` holds patterns such as `"conv1,layer1.*"`."""
    patterns = split_patterns([freeze] if isinstance(freeze, str) else freeze)
    if not isinstance(model, Trace):
        check_module(model, "count_params")
    tree = model.tree if isinstance(model, Trace) else read_tree(model)
    return parameters_of(tree, depth=_all_levels(depth), freeze=patterns, env=brief())


def list_buffers(model: nn.Module, *inputs: Any, kwargs: Mapping[str, Any] | None = None) -> BuffersResult:
    """Every buffer; with example `inputs`, also whether a forward in train mode changes it."""
    check_module(model, "list_buffers")
    ran = trace(model, *inputs, kwargs=kwargs, train=True) if inputs or kwargs else None
    tree, changed = (ran.tree, ran.changed) if ran is not None else (read_tree(model), None)
    return buffers_of(tree, changed=changed, saved=saved_names(model), env=brief())


def assert_cost(
    model: nn.Module | Trace | str,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    max_macs: int | str | None = None,
    max_flops: int | str | None = None,
    max_parameters: int | str | None = None,
    max_activations: int | str | None = None,
    max_memory: int | str | None = None,
) -> None:
    """Raise AssertionError, with a line for each, when a figure of a forward pass exceeds its limit.

    Limits are whole numbers, or texts as on the command line: `"4.2G"`, of `max_memory` (the peak of weights, buffers,
    inputs and activations in inference; of a module, not of a trace) `"500MB"`.

    Raises BadInput when no limit is given (nothing would be checked), and for one that is no amount.
    """
    from modelprobe.cost.budgets.check import Budget, check_trace
    from modelprobe.report.amounts import parse_amount

    given = {
        "macs": max_macs, "flops": max_flops, "parameters": max_parameters, "activations": max_activations,
        "memory": max_memory,
    }  # fmt: skip
    limits = {
        name: parse_amount(str(limit), f"max_{name}", of_bytes=name == "memory")
        for name, limit in given.items()
        if limit is not None
    }
    if not limits:
        raise BadInput(
            "assert_cost has no limit to check",
            "give max_macs, max_flops, max_parameters, max_activations or max_memory",
        )
    recorded = _trace_of(model, inputs, kwargs)
    breaches = check_trace(recorded.tree.cls, recorded, Budget(limits)).breaches
    if breaches:
        raise AssertionError("\n".join(breaches))


def _trace_of(model: nn.Module | Trace | str, inputs: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Trace:
    if not isinstance(model, Trace):
        return trace(model, *inputs, kwargs=kwargs)
    if inputs or kwargs:
        raise BadInput("a trace has its inputs already", "give a model with inputs, or a trace alone")
    return model
