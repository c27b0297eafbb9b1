"""Which columns of a table fit a width, and how wide is each? Widths to widths; no text is drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
BARS = (20, 10, 6)
"""Widths a share bar may have, widest first."""

EXTRA = 4
"""Columns of this priority and above give way to a share bar; the others do not, and bars take what room is spare."""


@dataclass(frozen=True)
class Want:
    """What one column asks for: its natural width, the least it can be cut to, and when it gives way."""

    natural: int
    least: int
    priority: int
    bar: bool = False


@dataclass(frozen=True)
class Layout:
    """The columns that are shown (by index), their widths, and the width of a bar (0: none)."""

    shown: tuple[int, ...]
    widths: tuple[int, ...]
    bar: int = 0


def fit(wants: Sequence[Want], width: int) -> Layout | None:
    """Drop columns, highest priority number first, until the rest fits; None when even priority 0 does not."""
    shown = list(range(len(wants)))
    while sum(wants[i].least for i in shown) + GAP * (len(shown) - 1) > width:
        # The first column names the row, so it stays; of equals the rightmost goes.
        droppable = [i for i in shown[1:] if wants[i].priority > 0]
        if not droppable:
            return None
        shown.remove(max(droppable, key=lambda i: (wants[i].priority, i)))
    return _with_bar(wants, shown, width) or _layout(wants, shown, width)


def _with_bar(wants: Sequence[Want], shown: Sequence[int], width: int) -> Layout | None:
    """The layout with a bar, extra columns dropped as far as that takes; None when there is no bar to draw."""
    left = list(shown)
    while any(wants[i].bar for i in left):
        found = _layout(wants, left, width)
        extra = [i for i in left[1:] if wants[i].priority >= EXTRA and not wants[i].bar]
        if found.bar or not extra:
            return found if found.bar else None
        left.remove(max(extra, key=lambda i: (wants[i].priority, i)))
    return None


def _layout(wants: Sequence[Want], shown: Sequence[int], width: int) -> Layout:
    chosen = [wants[i] for i in shown]
    room = width - GAP * (len(shown) - 1)
    widths = _share_out(chosen, room)
    return Layout(tuple(shown), tuple(widths), _bar(chosen, room - sum(widths)))


def _share_out(wants: Sequence[Want], room: int) -> list[int]:
    """Everyone's least, then the rest to those who were cut, the first column before the others."""
    widths = [want.least for want in wants]
    spare = room - sum(widths)
    for i, want in enumerate(wants):
        more = min(want.natural - want.least, spare)
        widths[i] += more
        spare -= more
    return widths


def _bar(wants: Sequence[Want], spare: int) -> int:
    bars = sum(want.bar for want in wants)
    fitting = [bar for bar in BARS if bars and (bar + 1) * bars <= spare]
    # A full-width bar beside a narrow table shouts: it gets half of what is spare.
    return next((bar for bar in fitting if (bar + 1) * bars <= spare // 2), fitting[-1]) if fitting else 0
