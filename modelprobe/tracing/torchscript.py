"""What TorchScript does differently: it refuses some hooks, and optimised scripts run kernels that nobody can watch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn
from torch.jit._trace import TopLevelTracedModule

from modelprobe.report.blocks import Level, Note

# What `torch.jit.optimize_for_inference` and the fusers put in the place of operators: nodes of the interpreter itself.
_FUSED_NODES = re.compile(r"= (prim::(?:mkldnn_\w+|MKLDNN\w+|\w*(?:Fusion|Differentiable|TensorExpr)\w*))[\[(]")


def is_script(model: nn.Module) -> bool:
    """Whether the module is TorchScript. Its parameters live in C++ and cannot be exchanged for meta ones."""
    return isinstance(model, torch.jit.ScriptModule)


def takes_no_hook(model: nn.Module) -> bool:
    """What `torch.jit.script` makes refuses hooks; the outermost module of `torch.jit.trace` takes them."""
    return is_script(model) and not isinstance(model, TopLevelTracedModule)


def _scripts(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost scripts in a model."""
    if is_script(model):
        yield model
    else:
        for child in model.children():
            yield from _scripts(child)


def hidden_operators(model: nn.Module) -> list[Note]:
    """A warning for the kernels of an optimised script that run below the dispatcher, where no operator is seen."""
    graphs = (str(getattr(script, "inlined_graph", "")) for script in _scripts(model))
    found = Counter(name for graph in graphs for name in _FUSED_NODES.findall(graph))
    if not found:
        return []
    names = ", ".join(f"{count} x {name}" for name, count in sorted(found.items()))
    return [
        Note(
            f"Not counted: {names}, which run inside TorchScript's interpreter. "
            "Give the module as it was before torch.jit.optimize_for_inference.",
            Level.WARNING,
        )
    ]
