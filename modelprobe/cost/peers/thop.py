"""Asks thop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelprobe.cost.peers.peer import Peer, positional

if TYPE_CHECKING:
    from torch import nn


def ask(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """thop's "MACs", which many papers print as FLOPs."""
    from thop import profile

    return profile(model, inputs=positional(model, args, kwargs), verbose=False)[0]


PEER = Peer("thop", "thop", "MACs", 1, ask, convention="thop", on_meta=True)
