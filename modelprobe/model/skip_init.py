"""Leave out random initialisation while a model is built on `meta`, where there are no values to initialise.

On `meta` the initialisers do nothing but cost time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_IN_PLACE = frozenset(
    [
        "normal_",
        "uniform_",
        "trunc_normal_",
        "constant_",
        "kaiming_uniform_",
        "kaiming_normal_",
        "xavier_uniform_",
        "xavier_normal_",
        "erfinv_",
        "bernoulli_",
        "exponential_",
        "random_",
        "log_normal_",
        "cauchy_",
        "geometric_",
    ]
)
_ARITHMETIC = frozenset(["add_", "sub_", "mul_", "div_", "clamp_", "clip_", "fill_", "zero_"])
"""What initialisers do to random numbers; with a number it changes values alone."""
_RANDOM_FACTORIES = (torch.randn, torch.rand)


class _SkipInit(TorchFunctionMode):
    """Returns a meta tensor unchanged from its initialiser, and an empty one from a random factory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _IN_PLACE:
            subject = args[0] if args else named.get("tensor")
            if isinstance(subject, torch.Tensor) and subject.is_meta:
                return subject
        elif name in _ARITHMETIC and _changes_values_alone(args, named):
            return args[0]
        elif func in _RANDOM_FACTORIES and _is_meta(named.get("device")) and named.get("out") is None:
            named.pop("generator", None)
            return torch.empty(*args, **named)
        return func(*args, **named)


@contextmanager
def building_on_meta() -> Iterator[None]:
    """Factories make `meta` tensors, and nothing is initialised. Undone on the way out; no function is replaced.

    Tensors that stand on a real device are initialised as ever. Names, shapes and dtypes are those of a real build.
    """
    # The device mode lies inside, so that it has filled in `device=` before this one looks at it.
    with imports_as_ever(), _SkipInit(), torch.device("meta"):
        yield


@contextmanager
def imports_as_ever() -> Iterator[None]:
    """What a constructor imports on the way runs outside every mode: a module keeps the tensors that it makes."""
    plain = SourceFileLoader.exec_module

    def exec_module(loader: SourceFileLoader, module: ModuleType) -> None:
        with torch._C.DisableTorchFunction():
            plain(loader, module)

    loaders: Any = SourceFileLoader
    loaders.exec_module = exec_module
    try:
        yield
    finally:
        del loaders.exec_module


def skipping() -> TorchFunctionMode:
    """The same for tensors that come to meta in another way: factories still make real ones."""
    return _SkipInit()


def _changes_values_alone(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether the subject is a meta tensor that may be written to, and the rest are numbers."""
    if not args or not isinstance(args[0], torch.Tensor) or not args[0].is_meta:
        return False
    if args[0].requires_grad and torch.is_grad_enabled():  # torch refuses that for parameters
        return False
    return all(value is None or isinstance(value, (int, float)) for value in (*args[1:], *named.values()))


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"
