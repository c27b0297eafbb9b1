"""One function for each other tool: a model and the arguments of its forward in, the tool's own figure out.

The tools are imported inside the functions, which a child process alone calls (`child.py`).
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelprobe.errors import ModelRaised

if TYPE_CHECKING:
    from torch import nn

Args = Sequence[Any]
Kwargs = Mapping[str, Any]


def ask_thop(model: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    """thop's "MACs", which many papers print as FLOPs."""
    from thop import profile

    return profile(model, inputs=positional(model, args, kwargs), verbose=False)[0]


def ask_torchinfo(model: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    """torchinfo's "mult-adds"."""
    import torch
    from torchinfo import summary

    with contextlib.suppress(TypeError):  # by place, where it can be: some names mean something to torchinfo itself
        args, kwargs = positional(model, args, kwargs), {}
    # Without a device it moves the model to a GPU where there is one.
    tensors = (*model.parameters(), *(value for value in args if isinstance(value, torch.Tensor)))
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    return summary(model, input_data=list(args), verbose=0, device=device, **kwargs).total_mult_adds


def ask_torch(model: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    """FLOPs as torch's own `FlopCounterMode` adds them up, two per multiply-accumulate."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode:
        model(*args, **kwargs)
    return mode.get_total_flops()


def ask_fvcore(model: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    """fvcore's "flops", one per multiply-accumulate."""
    from fvcore.nn import FlopCountAnalysis

    return FlopCountAnalysis(model, positional(model, args, kwargs)).total()


def ask_ptflops(model: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    """ptflops' MACs by its default backend, at modules and functions."""
    return _ptflops(model, args, kwargs, "pytorch")


def ask_ptflops_aten(model: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    """ptflops' MACs by its backend `aten`, at operators."""
    return _ptflops(model, args, kwargs, "aten")


def _ptflops(model: nn.Module, args: Args, kwargs: Kwargs, backend: str) -> Any:
    """The figure. Where ptflops fails it prints why and returns None: that becomes an exception here."""
    from ptflops import get_model_complexity_info

    batch = args[0] if len(args) == 1 and not kwargs else by_name(model, args, kwargs)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        found = get_model_complexity_info(
            model,
            (1,),  # must be there, and is not looked at beside a constructor
            input_constructor=lambda _: batch,
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )[0]
    if found is None:
        text = " ".join(printed.getvalue().partition("exception:")[2].split())
        kind, _, message = text.removeprefix("<class '").partition("'>: ")
        raise ModelRaised(f"raised {kind}: {message}" if message else "it gives no figure and no reason")
    return found


def positional(model: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Any, ...]:
    """The arguments by place, for tools that take no names. Raises TypeError where forward wants a name."""
    if not kwargs:
        return tuple(args)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    if bound.kwargs:
        raise TypeError(f"it takes inputs by place alone, and {next(iter(bound.kwargs))} has a name only")
    return bound.args


def by_name(model: nn.Module, args: Args, kwargs: Kwargs) -> dict[str, Any]:
    """The arguments by name, for tools that take a dict. Raises TypeError where forward wants one by place."""
    if not args:
        return dict(kwargs)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    kinds = {parameter.name: parameter.kind for parameter in bound.signature.parameters.values()}
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if kinds[name] in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            raise TypeError(f"it takes several inputs by name alone, and {name} has none")
        found.update(value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value})
    return found
