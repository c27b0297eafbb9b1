"""Bytes and texts that a pickle holds as lists: of whole numbers below 256, and of pieces of one text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelprobe.checkpoint.pickle.nodes import Dict, PendingCall, PickleNode, SetNode

MAX_VISITED = 300_000
"""Values of one pickle that are visited."""

SHORTEST, LONGEST = 16, 4 << 20
"""Numbers, or letters of all pieces together, from which and up to which a list is put together."""

_PIECE = re.compile(r"[A-Za-z0-9+/=_\s-]*")


def joined_lists(root: PickleNode) -> Iterator[tuple[str, bytes]]:
    """What each list of numbers or of texts below a value is when it is put together, and which of them it was."""
    left, seen, steps = [root], set[int](), 0
    while left and steps < MAX_VISITED:
        node = left.pop()
        steps += 1
        if type(node) in (list, tuple):
            if len(node) < 2 or id(node) in seen:
                left += node if len(node) == 1 else ()
                continue
            seen.add(id(node))
            yield from _put_together(node)
            left += (value for value in node[:MAX_VISITED] if type(value) not in (int, float, str))
        elif type(node) in (Dict, SetNode, PendingCall) and id(node) not in seen:
            seen.add(id(node))
            left += _below(node)


def _below(node: PickleNode) -> list[PickleNode]:
    if type(node) is Dict:
        return node.pairs
    if type(node) is SetNode:
        return node.items
    given = () if node.record is not None else (node.args,)
    return [*given, node.kwargs, node.state, *(node.pairs or ()), *(node.items or ())]


def _put_together(node: PickleNode) -> Iterator[tuple[str, bytes]]:
    kind = type(node[0])
    if kind not in (int, str) or len(node) > LONGEST or any(type(value) is not kind for value in node):
        return
    if kind is int and len(node) >= SHORTEST and min(node) >= 0 and max(node) < 256:
        yield "a list of numbers", bytes(node)
    elif (
        kind is str
        and len(node) > 2 - (type(node) is list)
        and SHORTEST <= sum(map(len, node)) <= LONGEST
        and all(map(_PIECE.fullmatch, node))
    ):
        yield "a list of texts", "".join(node).encode()
