"""What is asked of the memory of a target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MemoryRequest:
    """What is run: inference, or (`train`) steps with that optimizer, patterns of frozen parameters and a loss.

    `like` is whose kernels and allocator, cpu or cuda; `context` bytes stand outside the allocator. `checkpointed` and
    `accumulate` are as in `StepSetting`; `amp` is autocast.
    """

    train: bool = False
    optimizer: str = "sgd"
    freeze: Sequence[str] = ()
    loss: Callable[[Any], Any] | None = None
    like: str = "cpu"
    context: int = 0
    checkpointed: Collection[str] = ()
    accumulate: int = 1
    amp: bool = False
