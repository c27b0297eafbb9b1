"""Names of modules and tensors cut to a width so that two that differ are never written alike."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from modelprobe.report.formats.lines import shorten

SEPARATORS = re.compile(r"(?<=[./])")
"""A name is cut behind these, which stay with what they end."""


def fitted_names(
    names: Sequence[str], rooms: Sequence[int], dots: str, leading: bool = True
) -> tuple[tuple[str, ...], str]:
    """The names, each in its cells, and the beginning that is left out of all of them.

    First, with `leading`, what all begin with gives way, then the parts that most names have. Parts with a digit, which
    tell one block from the next, and the last part stay as long as anything else can go.
    """
    if all(cell_len(name) <= room for name, room in zip(names, rooms, strict=True)):
        return tuple(names), ""
    start = _common_start([name for name in names if name], len(dots)) if leading else ""
    heads = dots if start else ""
    cut = [heads + name.removeprefix(start) if name else name for name in names]
    often = Counter(part for name in cut for part in set(SEPARATORS.split(name)))
    return tuple(_cut_parts(name, room, dots, often) for name, room in zip(cut, rooms, strict=True)), start


def _common_start(names: Sequence[str], least: int) -> str:
    """What all names begin with, up to a separator; nothing where that is no longer than what stands for it."""
    if len(names) < 4 or any(" " in name for name in names):
        return ""
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*map(SEPARATORS.split, names), strict=False))
    start = "".join(parts[0] for parts in same)
    return start if len(start) > least and start not in names else ""


def _cut_parts(name: str, room: int, dots: str, often: Counter[str]) -> str:
    """`name` without its commonest parts, as many as must go; where that is not enough, cut in the middle."""
    if cell_len(name) <= room:
        return name
    parts = SEPARATORS.split(name)
    if len(parts) == 1 or " " in name:
        return shorten(name, room, dots)
    kept = dict(enumerate(parts))
    spare = [at for at, part in kept.items() if at < len(parts) - 1 and not any(map(str.isdigit, part))]
    for at in sorted(spare, key=lambda at: (-often[parts[at]], at)):
        kept[at] = dots
        joined = _joined(kept.values(), dots)
        left = room - cell_len(joined)
        if left >= 0:  # what room is left goes to the end of the part that went last
            kept[at] = dots + parts[at][len(parts[at]) - left :] if 1 < left < len(parts[at]) else dots
            fuller = _joined(kept.values(), dots)
            return fuller if cell_len(fuller) <= room else joined
    return _cut_letters(_joined(kept.values(), dots), room, dots)


def _cut_letters(name: str, room: int, dots: str) -> str:
    """`name` with its longest runs of letters cut, and its numbers whole where that is possible."""
    runs = re.findall(r"\d+|\D+", name)
    widths = [cell_len(run) for run in runs]
    while sum(widths) > room:
        longest = max((at for at, run in enumerate(runs) if not run.isdigit()), key=lambda at: widths[at], default=-1)
        if longest < 0 or widths[longest] <= len(dots) + 1:
            return shorten(name, room, dots)
        widths[longest] -= 1
    return "".join(shorten(run, width, dots) for run, width in zip(runs, widths, strict=True))


def _joined(parts: Iterable[str], dots: str) -> str:
    """The parts in a row; neighbours that were left out are shown as one gap."""
    found: list[str] = []
    for part in parts:
        if part == dots and found and found[-1] == dots:
            continue
        if part.startswith(dots) and found:
            found[-1] = found[-1].rstrip("./")
        found.append(part)
    return "".join(found)
