"""One forward and backward pass of a model on a batch, and what its layers and parameters got."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelprobe.errors import BadInput, ProbeError, one_line
from modelprobe.inside.divergence.tape import Tape
from modelprobe.inside.health.activations import ActivityHooks, LayerActivity, norm_of
from modelprobe.inside.health.first_bad import BadOperator, first_bad_operator
from modelprobe.tracing.autograd import LEAF, Numbered, where_differentiated
from modelprobe.tracing.compiler_stand_in import compiler_stand_in
from modelprobe.tracing.failures import model_errors, model_raised
from modelprobe.tracing.module_calls import watch
from modelprobe.tracing.prepare import prepare_parts, unwrapped
from modelprobe.tracing.restore import mode_set, own_parameters, restored, seed_generators
from modelprobe.tracing.tensors import copied, given_leaves, leaves

Loss = Callable[..., Any]


class LossRaised(ProbeError):
    """The user's loss raised (exit code 4): it is no question of the model's input."""

    exit_code = 4


@dataclass(slots=True)
class ParameterHealth:
    """One parameter and its gradient. `reason` says why none came: frozen, unused, no_grad, detached.

    `norm` and `weight` are the norms of gradient and weight, `zeros` the share of zeros in the gradient.
    """

    name: str
    shape: tuple[int, ...]
    weight: float
    norm: float | None = None
    zeros: float | None = None
    finite: bool = True
    reason: str = ""


@dataclass
class BatchRun:
    """What one step showed."""

    loss: float
    loss_name: str
    layers: list[LayerActivity]
    parameters: list[ParameterHealth]
    bad: BadOperator | None = None
    probabilities: bool = False
    gradients: dict[str, Tensor] = field(default_factory=dict)
    unregistered: list[tuple[int, ...]] = field(default_factory=list)
    """Shapes of parameters that were used and that no module registers."""


def run_batch(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Loss | None = None,
    seed: int = 0,
    keep_gradients: bool = False,
    train: bool = True,
) -> BatchRun:
    """Run one step. `loss` gets what the model returns and gives a scalar; without one `assumed_loss` is taken.

    Raises ModelRaised when the model raises, LossRaised when the loss does, BadInput for a loss that is no scalar, or
    that no parameter has a part in.
    """
    model, _ = unwrapped(model)
    with ExitStack() as stack:
        out, parameters, hooks, _ = _prepared(model, args, kwargs, stack, seed, train)
        value, name = loss_of(out, loss)
        _refuse_without_gradient(value, parameters)
        with compiler_stand_in():
            torch.autograd.backward([value])
        found = BatchRun(float(value.detach()), name, list(hooks.layers.values()), [])
        found.probabilities = _are_probabilities(out)
        reached = _leaves_reached(value)
        own = {id(parameter) for parameter in parameters.values()}
        found.unregistered = [
            tuple(leaf.shape) for leaf in reached.values() if isinstance(leaf, nn.Parameter) and id(leaf) not in own
        ]
        for key, parameter in parameters.items():
            found.parameters.append(_parameter_health(key, parameter, hooks, reached))
            if keep_gradients and parameter.grad is not None:
                found.gradients[key] = parameter.grad.detach().clone()
    if _is_bad(found):
        found.bad = first_bad_operator(partial(_under_tape, model, args, kwargs, loss, seed, train))
    return found


def _prepared(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    stack: ExitStack,
    seed: int,
    train: bool,
    tape: Tape | None = None,
) -> tuple[Any, dict[str, nn.Parameter], ActivityHooks, Numbered]:
    """The forward pass of a model that is given back as it was once `stack` is closed."""
    stack.enter_context(restored(model))
    seed_generators(seed)
    parameters = stack.enter_context(own_parameters(model, False, ()))
    given, named = copied(tuple(args)), copied(dict(kwargs))
    stack.enter_context(mode_set(model, train))
    prepare_parts(model, stack)
    hooks = ActivityHooks(model)
    running = Numbered(lambda: 0, lambda _: True)
    watch(model, running, stack)
    if tape is None:
        hooks.enter(stack)
    else:
        place = where_differentiated(running)
        tape.where = lambda: (place()[0], torch._C._current_autograd_node() is not None)
        tape.starts(model, list(given_leaves((given, named))))
        stack.callback(tape.ends)
        stack.enter_context(tape)
    explain = partial(model_raised, model, given, named, running)
    with model_errors(explain), compiler_stand_in(), torch.enable_grad():
        return model(*given, **named), parameters, hooks, running


def _under_tape(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Loss | None,
    seed: int,
    train: bool,
    tape: Tape,
) -> None:
    with ExitStack() as stack:
        out, _, _, running = _prepared(model, args, kwargs, stack, seed, train, tape)
        value, _ = loss_of(out, loss)
        running.anywhere = True
        torch.autograd.backward([value])


def loss_of(out: Any, loss: Loss | None) -> tuple[Tensor, str]:
    """The loss of what a model returned, and its name. Raises BadInput when it is no scalar that wants a gradient."""
    name = getattr(loss, "__name__", type(loss).__name__) if loss is not None else ""
    if loss is None:
        return assumed_loss(out)
    try:
        value = loss(out)
    except Exception as error:
        raise LossRaised(
            f"the loss {name} raised {type(error).__name__}: {one_line(error)}",
            "it is called with what the model returns, and nothing else",
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of {'x'.join(map(str, value.shape))}" if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"the loss {name} gives {got}, not a scalar", "average it: loss.mean()")
    return value.reshape(()), name


def assumed_loss(out: Any) -> tuple[Tensor, str]:
    """The model's own (`out.loss`, a sum of its losses), cross-entropy against fixed classes, or a mean square."""
    own = getattr(out, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return own.reshape(()), "the model's own"
    floating = [(name, tensor) for name, tensor in leaves(out) if tensor.is_floating_point() and tensor.requires_grad]
    if floating and all(tensor.numel() == 1 for _, tensor in floating):
        return torch.stack([tensor.reshape(()) for _, tensor in floating]).sum(), "sum of the losses it returns"
    first = next((tensor for _, tensor in floating), None)
    if first is None:
        raise BadInput(
            "nothing would train: no output depends on a parameter that wants a gradient",
            "the model runs under torch.no_grad, detaches what it returns, or is frozen",
        )
    if first.dim() == 2 and first.shape[1] > 1:
        classes = torch.arange(len(first), device=first.device) % first.shape[1]
        return F.cross_entropy(first, classes), "cross-entropy, made-up classes"
    return first.square().mean(), "mean square of the output"


def _refuse_without_gradient(value: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
    if value.requires_grad:
        return
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise BadInput("nothing would train: every parameter is frozen, or there is none", "unfreeze some of them")
    raise BadInput("the loss depends on no parameter", "it is detached, or computed under torch.no_grad")


def _leaves_reached(value: Tensor) -> dict[int, Tensor]:
    """The leaves that the graph of a loss leads to, by their ids."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    todo: list[Any] = [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == LEAF:
            found[id(node.variable)] = node.variable
        todo += [following for following, _ in node.next_functions]
    return found


def _parameter_health(
    name: str, parameter: nn.Parameter, hooks: ActivityHooks, reached: Mapping[int, Tensor]
) -> ParameterHealth:
    weight = norm_of(parameter.detach()) if parameter.is_floating_point() else math.nan
    found = ParameterHealth(name, tuple(parameter.shape), weight)
    if parameter.grad is not None:
        gradient = parameter.grad.detach()
        gradient = gradient.coalesce().values() if gradient.is_sparse else gradient
        found.norm = norm_of(gradient)
        found.finite = math.isfinite(found.norm)
        found.zeros = 1 - int(torch.count_nonzero(gradient)) / max(1, parameter.numel())
    else:
        found.reason = _why_none(name, parameter, hooks, reached)
    return found


def _why_none(name: str, parameter: nn.Parameter, hooks: ActivityHooks, reached: Mapping[int, Tensor]) -> str:
    """Why a parameter got no gradient."""
    path = name.rpartition(".")[0]
    while path in hooks.lists:  # nobody calls a list of parameters
        path = path.rpartition(".")[0]
    if not parameter.requires_grad:
        return "frozen"
    if path not in hooks.ran:
        return "unused"
    if path in hooks.ungraded:
        return "no_grad"
    return "stopped" if id(parameter) in reached else "detached"


def _are_probabilities(out: Any) -> bool:
    """Whether what the model returns are probabilities already: what cross-entropy takes are logits."""
    tensor = next((t.detach() for _, t in leaves(out) if t.is_floating_point()), None)
    if tensor is None or tensor.dim() != 2 or tensor.shape[1] < 2 or not bool((tensor >= 0).all()):
        return False
    return bool(torch.allclose(tensor.sum(1), torch.ones((), dtype=tensor.dtype), atol=1e-3))


def _is_bad(found: BatchRun) -> bool:
    return (
        not math.isfinite(found.loss)
        or any(not layer.finite for layer in found.layers)
        or any(not parameter.finite for parameter in found.parameters)
    )
