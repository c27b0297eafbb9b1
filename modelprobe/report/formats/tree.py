"""Where does a row stand in its tree? Pre-order depths to guides, for the formats that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Guides(NamedTuple):
    """The four strokes a tree is drawn with; all of one width."""

    child: str
    last: str
    through: str
    blank: str


LINES = Guides("├─ ", "└─ ", "│  ", "   ")
ASCII = Guides("|- ", "`- ", "|  ", "   ")


def prefixes(depths: Sequence[int], guides: Guides) -> list[str]:
    """What stands before each row's name. Roots have nothing; a depth may skip levels.

    Read from the end: a row is the last of its parent when no row at its depth comes before the parent ends.
    """
    result: list[str] = []
    alive: set[int] = set()  # depths at which the parent has a row further down
    for depth in reversed(depths):
        alive = {level for level in alive if level <= depth}
        if depth:
            above = (guides.through if level in alive else guides.blank for level in range(1, depth))
            result.append("".join(above) + (guides.child if depth in alive else guides.last))
        else:
            result.append("")
        alive.add(depth)
    return result[::-1]
