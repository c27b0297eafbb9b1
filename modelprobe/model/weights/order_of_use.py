"""In which order does a network use its tensors? Two libraries may register the same layers in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from modelprobe.errors import ProbeError
from modelprobe.model.construct import without_warnings
from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.target import Target


def order_of_use(target: Target, inputs: Sequence[str] = ()) -> tuple[str, ...]:
    """The names in the state_dict of `target`, by the first call of the module that holds each; unused ones are absent.

    The model runs once on `meta`, where it computes nothing; where it cannot, the answer is empty.
    """
    if target.is_instance:
        return ()  # it is somebody else's object: nothing is hooked into it
    try:
        with without_warnings(), torch.no_grad():
            model = target.build("meta").module.eval()
            args, kwargs = make_inputs(target, inputs, model=model).build("meta", 0)
            return _used(model, args, kwargs)
    except (ProbeError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError):
        return ()


def _used(model: nn.Module, args: Sequence[object], kwargs: dict[str, object]) -> tuple[str, ...]:
    called: dict[str, None] = {}
    hooks = []
    for path, module in model.named_modules():
        held = [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        held += [f"{path}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)]
        if held:
            hooks.append(module.register_forward_pre_hook(lambda *_, held=held: called.update(dict.fromkeys(held))))
    try:
        model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(called)
