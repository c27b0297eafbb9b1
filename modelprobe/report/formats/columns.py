"""The layout of a table in characters: which columns fit a width, how wide each is, and the guides of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

COLUMN_GAP = 2
BAR_WIDTHS = (20, 10, 6)
"""Widths a share bar may have, widest first."""

GIVES_WAY_TO_BAR = 4
"""Columns of this priority and above give way to a share bar; the others do not, and bars take what room is spare."""


@dataclass(frozen=True)
class ColumnNeeds:
    """What one column needs: its natural width, the least it can be cut to, and when it gives way."""

    natural: int
    least: int
    priority: int
    bar: bool = False


@dataclass(frozen=True)
class ColumnLayout:
    """The columns that are shown (by index), their widths, and the width of a bar (0: none)."""

    shown: tuple[int, ...]
    widths: tuple[int, ...]
    bar: int = 0


def fit_columns(wants: Sequence[ColumnNeeds], width: int, most: int | None = None) -> ColumnLayout | None:
    """Drop columns, highest priority number first, until the rest, at most `most` of them, fits; None when even
    priority 0 does not."""
    shown, most = list(range(len(wants))), len(wants) if most is None else most
    while len(shown) > most or sum(wants[i].least for i in shown) + COLUMN_GAP * (len(shown) - 1) > width:
        # The first column names the row, so it stays; of equals the rightmost goes.
        droppable = [i for i in shown[1:] if wants[i].priority > 0]
        if not droppable:
            return None
        shown.remove(max(droppable, key=lambda i: (wants[i].priority, i)))
    return _with_bar(wants, shown, width) or _laid_out(wants, shown, width)


def _with_bar(wants: Sequence[ColumnNeeds], shown: Sequence[int], width: int) -> ColumnLayout | None:
    """The layout with a bar, extra columns dropped as far as that takes; None when there is no bar to draw."""
    left = list(shown)
    while any(wants[i].bar for i in left):
        found = _laid_out(wants, left, width)
        extra = [i for i in left[1:] if wants[i].priority >= GIVES_WAY_TO_BAR and not wants[i].bar]
        if found.bar or not extra:
            return found if found.bar else None
        left.remove(max(extra, key=lambda i: (wants[i].priority, i)))
    return None


def _laid_out(wants: Sequence[ColumnNeeds], shown: Sequence[int], width: int) -> ColumnLayout:
    chosen = [wants[i] for i in shown]
    room = width - COLUMN_GAP * (len(shown) - 1)
    widths = _column_widths(chosen, room)
    return ColumnLayout(tuple(shown), tuple(widths), _bar_width(chosen, room - sum(widths)))


def _column_widths(wants: Sequence[ColumnNeeds], room: int) -> list[int]:
    """The least width of each, then the rest to those that were cut, the first column before the others."""
    widths = [want.least for want in wants]
    spare = room - sum(widths)
    for i, want in enumerate(wants):
        more = min(want.natural - want.least, spare)
        widths[i] += more
        spare -= more
    return widths


def _bar_width(wants: Sequence[ColumnNeeds], spare: int) -> int:
    bars = sum(want.bar for want in wants)
    fitting = [bar for bar in BAR_WIDTHS if bars and (bar + 1) * bars <= spare]
    # Use half the spare width.
    return next((bar for bar in fitting if (bar + 1) * bars <= spare // 2), fitting[-1]) if fitting else 0


class Guides(NamedTuple):
    """The four strokes a tree is drawn with; all of one width."""

    child: str
    last: str
    through: str
    blank: str


LINE_GUIDES = Guides("├─ ", "└─ ", "│  ", "   ")
ASCII_GUIDES = Guides("|- ", "`- ", "|  ", "   ")


def tree_prefixes(depths: Sequence[int], guides: Guides) -> list[str]:
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
