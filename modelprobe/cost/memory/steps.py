"""The training steps whose memory is followed: forward, loss, backward, optimizer, as people write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelprobe.cost.optimizers.known import find_optimizer
from modelprobe.errors import BadInput, ModelRaised, ProbeError
from modelprobe.tracing.failures import NeedsValuesError, asks_for_values, model_errors
from modelprobe.tracing.tensors import given_leaves, leaves
from modelprobe.tracing.training import outputs_with_gradients


@dataclass(frozen=True)
class StepSetting:
    """How a training step is run.

    `freeze` names parameters without a gradient, `optimizer` is made of the others. `loss` gets what the forward
    returns; without one it is the sum of the outputs. `checkpointed` names modules whose activations are computed again
    in the backward pass. `accumulate` passes, forward and backward, share one update. `autocast`, cpu or cuda, runs the
    forward and the loss under torch's autocast for that kind of device.
    """

    freeze: Collection[str] = ()
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    steps: int = 2
    loss: Callable[[Any], Any] | None = None
    checkpointed: Collection[str] = ()
    accumulate: int = 1
    autocast: str = ""


def step_setting(optimizer: str, freeze: Collection[str] = (), like: str = "cpu") -> StepSetting:
    """How a step with that optimizer is recorded. Raises BadInput for an unknown one.

    One step tells all where the optimizer keeps no state. On a GPU the second also shows what the allocator makes of
    the pieces of the first.
    """
    chosen = find_optimizer(optimizer)
    steps = 2 if chosen.states or like == "cuda" else 1
    return StepSetting(freeze, partial(_make_optimizer, chosen.name, like == "cuda"), steps)


def _make_optimizer(name: str, foreach: bool, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "sgd-momentum": partial(torch.optim.SGD, momentum=0.9),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
        "adagrad": torch.optim.Adagrad,
    }
    return classes[name](parameters, foreach=foreach)


class StepFollower(Protocol):
    """What follows the memory of a step, as a context."""

    phase: str
    step: int
    open: bool

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> Any: ...
    def end_forward(self) -> None:
        """The forward is over."""

    def note(self, tensors: Iterable[Tensor], role: str) -> None:
        """These tensors have that role."""


@contextmanager
def checkpointing(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """In the body, the modules of these names keep their inputs alone and run again in the backward pass."""
    inner = dict(model.named_modules())
    own = {name: inner[name].__dict__.get("forward") for name in names}
    for name in names:
        module: Any = inner[name]
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    try:
        yield
    finally:
        for name, before in own.items():
            if before is None:
                del inner[name].forward
            else:
                inner[name].__dict__["forward"] = before


def run_steps(
    model: nn.Module, args: Any, kwargs: Any, step: StepSetting, parameters: dict[str, nn.Parameter],
    follower: StepFollower, explain: Callable[[BaseException], ProbeError],
) -> None:  # fmt: skip
    """Run the steps and tell the follower where they are. Raises ModelRaised, and BadInput when nothing would train."""
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    optimizer = step.optimizer(trained) if step.optimizer and trained else None
    for number in range(step.steps):
        follower.step = number
        with torch.enable_grad(), follower:
            for _ in range(step.accumulate):
                kept: Any = None  # as in a loop, what the pass before returned is let go first
                follower.phase = "forward"
                with torch.autocast(step.autocast) if step.autocast else nullcontext():
                    with model_errors(explain):
                        kept = model(*args, **kwargs)
                    kept = kept, step_loss(step, kept, parameters)
                follower.end_forward()
                follower.phase = "backward"
                with model_errors(_backward_raised):
                    kept[1].backward()
                follower.note([p.grad for p in parameters.values() if p.grad is not None], "gradient")
                follower.note((t.grad for _, t in given_leaves((args, kwargs)) if t.grad is not None), "gradient")
            follower.phase = "optimizer"
            if optimizer is not None:
                with model_errors(_backward_raised):
                    optimizer.step()
                follower.note((t for state in optimizer.state.values() for _, t in leaves(state)), "optimizer")
                optimizer.zero_grad(set_to_none=True)
            for parameter in parameters.values():
                parameter.grad = None
            for _, tensor in given_leaves((args, kwargs)):
                tensor.grad = None
            kept = None
    follower.open = False  # what the optimizer holds is given back by nobody's step


def step_loss(step: StepSetting, out: Any, parameters: dict[str, nn.Parameter]) -> Any:
    """The loss of what a forward returned. Raises BadInput for what cannot be differentiated, ModelRaised."""
    outputs = outputs_with_gradients(out, parameters)
    if step.loss is None:
        return sum(tensor.sum() for tensor in outputs.values())
    with model_errors(_loss_raised):
        loss = step.loss(out)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = (
            f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"of type {type(loss).__name__}"
        )
        raise BadInput(
            f"the loss is {what}, not a tensor of one number", "return loss.mean() or loss.sum(), no .item()"
        )
    if not loss.requires_grad:
        raise BadInput("the loss does not depend on a parameter that trains", "it must not detach the outputs")
    return loss


def _loss_raised(error: BaseException) -> ProbeError:
    if asks_for_values(error):
        return NeedsValuesError("", error)
    return ModelRaised(f"the loss raised {type(error).__name__}: {error}", "--debug shows the traceback")


def _backward_raised(error: BaseException) -> ProbeError:
    if asks_for_values(error):
        return NeedsValuesError("", error)
    return ModelRaised(f"the step raised {type(error).__name__}: {error}", "--debug shows the traceback")
