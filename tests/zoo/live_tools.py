"""The tools themselves, each asked once about a copy of a model. What they print is thrown away."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.cost.other_tools import OTHER_TOOLS
from modelprobe.cost.other_tools.tool import plain_number

INSTALLED = [name for name, tool in OTHER_TOOLS.items() if importlib.util.find_spec(tool.package)]


def ask(tool: str, model: nn.Module, *args: Any) -> int | float:
    """The tool's own figure for a copy of `model` in eval mode."""
    with quiet():
        return plain_number(OTHER_TOOLS[tool].ask(copy.deepcopy(model).eval(), args, {}))


def fvcore_activations(model: nn.Module, x: Tensor) -> int:
    """What fvcore calls activations."""
    from fvcore.nn import ActivationCountAnalysis

    with quiet():
        return int(ActivationCountAnalysis(copy.deepcopy(model).eval(), (x,)).total())


@contextlib.contextmanager
def quiet():
    """Nothing on stdout or stderr, no warnings, the same seed."""
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield
