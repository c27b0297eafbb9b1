"""Asks fvcore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelprobe.cost.peers.peer import Peer, positional

if TYPE_CHECKING:
    from torch import nn


def ask(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """fvcore's "flops", one per multiply-accumulate."""
    from fvcore.nn import FlopCountAnalysis

    return FlopCountAnalysis(model, positional(model, args, kwargs)).total()


PEER = Peer("fvcore", "fvcore", "FLOPs", 1, ask, convention="fvcore", extra="compare")
