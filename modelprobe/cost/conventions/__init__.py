"""The ways in which other tools count. Each convention re-weights the recorded operators to its tool's own figure.

To add a convention, follow the recipe in `modelprobe guide architecture`.

Nothing here imports a convention before it is asked for: the command line reads the names alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelprobe.cost.conventions.convention import Convention, ToolCount
    from modelprobe.tracing.records import Trace

OWN_CONVENTION = "modelprobe"
"""How modelprobe itself counts, which re-weights nothing."""

CONVENTIONS: dict[str, str] = {
    "torchvision": "published",
    "torch": "torch_counter",
    "fvcore": "fvcore",
    "thop": "thop",
    "torchinfo": "torchinfo",
    "ptflops": "ptflops",
    "ptflops-aten": "ptflops_aten",
}
"""Name on the command line -> file of this folder."""


def find_convention(name: str) -> Convention:
    """The convention of that name. Raises KeyError for an unknown one."""
    found: Convention = import_module(f"{__name__}.{CONVENTIONS[name]}").CONVENTION
    return found


def count(trace: Trace, convention: str) -> ToolCount:
    """What the tool behind `convention` counts of the recorded forward pass."""
    return find_convention(convention).count(trace)


def needs_function_calls(convention: str) -> bool:
    """Whether the forward has to be recorded with `functions=True`."""
    return convention != OWN_CONVENTION and find_convention(convention).functions
