"""Which modules of a model can be fused for inference, and the model after it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_FUSING_METHODS = ("fuse", "reparameterize", "switch_to_deploy")
"""What a module offers when it knows a cheaper equal of itself; the first returns it, the others become it."""


def fused_for_inference(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of `model` in which every module that can has become its cheaper equal, and `12 MobileOneBlock`, ....

    The outermost module decides, then those that were inside it. Batch norms that the replacements
    absorb are folded into their convolutions.
    """
    import torch

    twin = copy.deepcopy(model).eval()
    found: Counter[str] = Counter()
    place = next((parameter.device for parameter in twin.parameters()), torch.device("cpu"))
    # The replacements are made wherever torch makes tensors, and are then given the weights of what they replace.
    with torch.no_grad(), torch.device(place):
        _fuse_children(twin, found)
    return twin, tuple(f"{count} {name}" for name, count in found.items())


def _fuse_children(parent: nn.Module, found: Counter[str]) -> None:
    for name, child in list(parent.named_children()):
        method = next((method for method in _FUSING_METHODS if hasattr(child, method)), None)
        current: Any = child
        if method is not None:
            before = _outline(child)
            replaced = getattr(child, method)()
            if method == "fuse":
                setattr(parent, name, replaced)
                current = replaced
            if _outline(current) != before:
                found[type(child).__name__] += 1
        # As timm's own `reparameterize_model` does: the children of what stood there, not of its replacement.
        _fuse_children(child, found)


def _outline(module: nn.Module) -> list[str]:
    """What changes when a module becomes another or loses parts: the classes inside."""
    return [type(part).__name__ for part in module.modules()]
