"""Asks torch's own counter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelprobe.cost.peers.peer import Peer

if TYPE_CHECKING:
    from torch import nn


def ask(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """FLOPs as `FlopCounterMode` adds them up, two per multiply-accumulate."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode:
        model(*args, **kwargs)
    return mode.get_total_flops()


PEER = Peer("torch", "torch", "FLOPs", 2, ask, convention="torch")
