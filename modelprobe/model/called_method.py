"""A method other than `forward` as what is run: `--call encode`."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from modelprobe.errors import BadInput


class CalledMethod:
    """Stands in the place of a model's `forward` and calls another method, in which `forward` is what it was.

    A copy of the model gets a copy of this that belongs to it.
    """

    def __init__(self, model: nn.Module, method: str) -> None:
        self.model, self.method = model, method

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(self.model, self.method))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.model.__dict__
        inner = own.pop("forward", None)
        try:
            return getattr(self.model, self.method)(*args, **kwargs)
        finally:
            if inner is not None:
                own["forward"] = inner


def called_by(model: nn.Module, method: str) -> nn.Module:
    """The model itself, whose call runs `method`. Raises BadInput for a name that is no method of its own."""
    found = getattr(model, method, None)
    own = sorted(
        name
        for name in dir(type(model))
        if name[0] != "_" and not hasattr(nn.Module, name) and callable(getattr(type(model), name, None))
    )
    if not callable(found) or isinstance(found, nn.Module):
        known = f"it has: {', '.join(['forward', *own[:12]])}"
        raise BadInput(f"{type(model).__name__} has no method {method!r}", known)
    if method != "forward":
        model.__dict__["forward"] = CalledMethod(model, method)
    return model
