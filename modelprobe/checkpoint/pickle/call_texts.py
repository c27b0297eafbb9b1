"""The texts that a pickle calls something with: a few of them, and each that tells what those do not."""

from __future__ import annotations

import functools
import re
from collections import deque

from modelprobe.checkpoint.pickle.globals import ARGUMENTS, shown_by
from modelprobe.checkpoint.pickle.nodes import Blob, Dict, PickleNode

MOST_TEXTS, TEXT_LENGTH, MOST_VALUES = 24, 400, 64
MAX_SEARCHED = 1 << 16
"""Letters of one text that are searched for what it shows."""


def texts_of(known: tuple[str, ...], args: PickleNode) -> tuple[str, ...]:
    """`known` and the texts among the arguments of a call, those in lists and dicts behind the others."""
    found, left, seen = list(known), deque([args]), 0
    while left and seen < MOST_VALUES:
        value = left.popleft()
        seen += 1
        if type(value) is str:
            _keep_text(found, value)
        elif type(value) is Blob and value.data is not None:
            _keep_text(found, value.data[:MAX_SEARCHED].decode("utf-8", "replace"))
        elif type(value) in (tuple, list):
            left += list(value)[: MOST_VALUES - seen]
        elif type(value) is Dict:
            left += value.pairs[: MOST_VALUES - seen]
    return tuple(found)


def _keep_text(found: list[str], text: str) -> None:
    """Add a text, of a long one the part that shows something; when there are many, only where it shows more."""
    if len(text) > TEXT_LENGTH:
        places = (re.search(shape, text[:MAX_SEARCHED]) for _, shape in ARGUMENTS)
        start = next((place.start() for place in places if place), 0)
        text = text[start : start + TEXT_LENGTH]
    if text not in found and (len(found) < MOST_TEXTS or not shown_by(text) <= _shown(tuple(found))):
        found.append(text)


@functools.lru_cache(maxsize=256)
def _shown(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*map(shown_by, texts))
