"""One run of a model under a tape: forward, and backward where that is asked for. The model is left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modelprobe.inside.divergence.tape import Tape
from modelprobe.tracing.autograd import Numbered, where_differentiated
from modelprobe.tracing.capture import Enough
from modelprobe.tracing.compiler_stand_in import compiler_stand_in
from modelprobe.tracing.failures import model_errors, model_raised
from modelprobe.tracing.module_calls import Running, watch
from modelprobe.tracing.prepare import prepare_parts, unwrapped
from modelprobe.tracing.recorder import quiet_hooks
from modelprobe.tracing.restore import mode_set, own_parameters, restored, seed_generators
from modelprobe.tracing.tensors import copied, given_leaves, leaves
from modelprobe.tracing.training import outputs_with_gradients


@dataclass(frozen=True)
class RunSide:
    """A model and what it is given. `train` runs forward in training mode, and backward.

    `plain_kernels` keeps cuDNN and fused attention out, whose operators another kind of device does not have.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    train: bool = False
    seed: int = 0
    threads: int = 0
    plain_kernels: bool = False


def run_under(side: RunSide, tape: Tape) -> list[tuple[str, Tensor]]:
    """Run it; the outputs by name and, in training, the gradients of the parameters. Empty when the tape ended the run.

    Raises ModelRaised when the model raises; `tape.ops` holds what ran until then.
    """
    model, _ = unwrapped(side.model)
    found: list[tuple[str, Tensor]] = []
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        stack.callback(tape.ends)
        seed_generators(side.seed)
        parameters = stack.enter_context(own_parameters(model, False, ())) if side.train else {}
        args, kwargs = copied(tuple(side.args)), copied(dict(side.kwargs))
        stack.enter_context(mode_set(model, side.train))
        prepare_parts(model, stack)
        running = Numbered(lambda: len(tape.ops), lambda _: True) if side.train else None
        calls = running or Running(lambda: len(tape.ops))
        watch(model, calls, stack)
        place = where_differentiated(running) if running is not None else calls.where
        tape.where = lambda: (place()[0], side.train and torch._C._current_autograd_node() is not None)
        tape.starts(model, list(given_leaves((args, kwargs))))
        stack.enter_context(model_errors(partial(model_raised, model, args, kwargs, calls)))
        grad: Any = torch.enable_grad() if side.train else torch.inference_mode()
        stack.enter_context(_threads(side.threads))
        if side.plain_kernels:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        with compiler_stand_in(), grad, quiet_hooks():
            try:
                with tape:
                    out = model(*args, **kwargs)
                found = [(name or "output", tensor) for name, tensor in leaves(out)]
                if side.train:
                    found += _parameter_gradients(out, parameters, tape, calls)
            except Enough:
                return []
    return found


class _threads:  # noqa: N801 - reads as a context
    """Within, torch computes with so many threads; 0 leaves them as they are."""

    def __init__(self, count: int) -> None:
        self._count, self._before = count, torch.get_num_threads()

    def __enter__(self) -> None:
        if self._count:
            torch.set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        if self._count:
            torch.set_num_threads(self._before)


def _parameter_gradients(
    out: Any, parameters: Mapping[str, nn.Parameter], tape: Tape, calls: Running
) -> list[tuple[str, Tensor]]:
    """Backward from a fixed random weighting of the outputs: a plain sum has no gradient behind a norm or softmax."""
    outputs = outputs_with_gradients(out, parameters)
    generator = torch.Generator().manual_seed(1)
    directions = [
        torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype).to(tensor.device)
        for tensor in outputs.values()
    ]
    calls.anywhere = True
    with tape:
        torch.autograd.backward(list(outputs.values()), directions)
    return [
        (f"gradient of {name}", parameter.grad)
        for name, parameter in sorted(parameters.items())
        if parameter.grad is not None
    ]
