"""Whether what a model says of an image is the same in a batch as alone: found by comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modelprobe.errors import BadInput
from modelprobe.tracing.tensors import shapes
from modelprobe.vision.walk import Shown

CLOSE, CLOSE_HALF = 1e-3, 2e-2
"""How far values of a batch may be from those of an image alone, of the largest value."""


class Together:
    """Compares the first batch of each size with one image of it."""

    def __init__(self) -> None:
        self._known: set[Any] = set()

    def check(self, batch: Sequence[Shown], many: Sequence[Tensor], alone: Callable[[Shown], Tensor]) -> None:
        """`many` holds what was found for each image of the batch, `alone` finds it for an image by itself.

        Raises BadInput where they differ: images are then looked at one by one.
        """
        first = batch[0].arguments
        other = next((at for at, one in enumerate(batch) if not equal(first, one.arguments)), None)
        size = shapes(first), len(batch)
        if other is None or size in self._known:
            return
        if not near(many[other], alone(batch[other])):
            raise BadInput("what the model says of an image depends on the others in its batch", "--batch 1")
        self._known.add(size)


def one_of_others(images: Tensor) -> int | None:
    """The number of an image that is another than the first one."""
    return next((at for at in range(1, len(images)) if not torch.equal(images[at], images[0])), None)


def equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two sets of arguments are the same."""
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def near(part: Tensor, one: Tensor) -> bool:
    """Whether two tensors are as near as kernels for a batch and for one image are."""
    if part.shape != one.shape:
        return False
    if not one.is_floating_point():
        return bool(torch.equal(part, one))
    close = CLOSE if one.dtype in (torch.float32, torch.float64) else CLOSE_HALF
    good = one[one.isfinite()]
    scale = float(good.abs().max()) if good.numel() else 0.0
    return torch.allclose(part.double(), one.double(), rtol=close, atol=close * scale, equal_nan=True)
