"""Which operators take operands of one dtype only? Kernels of `meta` do not ask, those of every real device do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Operator -> the positions of the arguments that have to agree.
_ALIKE: dict[str, tuple[int, ...]] = {
    "aten.linear": (0, 1),
    "aten.conv1d": (0, 1),
    "aten.conv2d": (0, 1),
    "aten.conv3d": (0, 1),
    "aten.conv_transpose1d": (0, 1),
    "aten.conv_transpose2d": (0, 1),
    "aten.conv_transpose3d": (0, 1),
    "aten.convolution": (0, 1),
    "aten.matmul": (0, 1),
    "aten.mm": (0, 1),
    "aten.bmm": (0, 1),
    "aten.addmm": (1, 2),
    "aten.baddbmm": (1, 2),
    "aten.scaled_dot_product_attention": (0, 1, 2),
}


def refuse_mixed(operator: str, args: Sequence[Any]) -> None:
    """Raises TypeError when `aten.linear` and its like get operands that differ in dtype, as a real device would.

    Under autocast they may: a real device casts them, `meta` does not.
    """
    places = _ALIKE.get(operator, ())
    found = {args[i].dtype for i in places if i < len(args) and isinstance(args[i], Tensor)}
    if len(found) > 1 and not _inside_autocast():
        kinds = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise TypeError(f"its operands are {kinds}, and have to be of one dtype")


def _inside_autocast() -> bool:
    # `is_autocast_enabled` is false inside a dispatch mode, where autocast has had its turn. Its depth is not.
    depth: int = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth > 1
