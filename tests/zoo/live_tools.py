"""The tools themselves, each asked once about a copy of a model. What they print is thrown away."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn


def thop(model: nn.Module, x: Tensor) -> int:
    from thop import profile

    return int(profile(model, inputs=(x,), verbose=False)[0])


def torchinfo(model: nn.Module, x: Tensor) -> int:
    from torchinfo import summary

    return int(summary(model, input_data=[x], verbose=0, device=x.device).total_mult_adds)


def fvcore(model: nn.Module, x: Tensor) -> int:
    from fvcore.nn import FlopCountAnalysis

    return int(FlopCountAnalysis(model, (x,)).unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def fvcore_activations(model: nn.Module, x: Tensor) -> int:
    from fvcore.nn import ActivationCountAnalysis

    found = ActivationCountAnalysis(model, (x,))
    return int(found.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def torch_counter(model: nn.Module, x: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode:
        model(x)
    return int(mode.get_total_flops())


def _ptflops(backend: str) -> Callable[[nn.Module, Tensor], int]:
    def count(model: nn.Module, x: Tensor) -> int:
        from ptflops import get_model_complexity_info

        found = get_model_complexity_info(
            model,
            tuple(x.shape[1:]),
            input_constructor=lambda _: x,
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )
        return int(found[0])

    return count


TOOLS: dict[str, Callable[[nn.Module, Tensor], int]] = {
    "thop": thop,
    "torchinfo": torchinfo,
    "fvcore": fvcore,
    "torch": torch_counter,
    "ptflops": _ptflops("pytorch"),
    "ptflops-aten": _ptflops("aten"),
}


def ask(tool: Callable[[nn.Module, Tensor], int], model: nn.Module, x: Tensor) -> int:
    """The tool's own integer for a copy of `model` in eval mode."""
    silent = io.StringIO()
    twin = copy.deepcopy(model).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return tool(twin, x)
