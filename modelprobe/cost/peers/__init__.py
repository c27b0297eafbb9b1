"""Which other tools can be asked what a model costs, each in a process of its own?

To add a tool:
1. write `peers/name.py` with a function from (model, args, kwargs) to the tool's own figure, and a `Peer`;
2. add it to `PEERS` below;
3. if its rules are known, write its convention (`tracing/conventions`), which explains the difference.

Nothing here imports a tool, or torch, before a child process asks it (`cost/peers/child.py`).
"""

from __future__ import annotations

from modelprobe.cost.peers import fvcore, ptflops, thop, torch_counter, torchinfo
from modelprobe.cost.peers.peer import Peer

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (thop.PEER, torchinfo.PEER, torch_counter.PEER, fvcore.PEER, ptflops.PYTORCH, ptflops.ATEN)
}
"""Name -> tool, in the order in which they are shown."""

__all__ = ["PEERS", "Peer"]
