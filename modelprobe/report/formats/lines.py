"""Lines of text in a width of cells: cleaned, wrapped, cut, padded."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len, chop_cells
from rich.text import Text

from modelprobe.report.blocks import Tone
from modelprobe.report.formats import Style
from modelprobe.report.units import BAR_HEIGHTS, NUMERIC, Unit, printable

TEXT_WIDTH = 100
"""Prose wider than this is hard to read, however wide the terminal."""

GLUE = "\u00a0"
"""A space that a paragraph is not broken at."""


TONES = {Tone.KEY: "bold cyan", Tone.GOOD: "green", Tone.BAD: "red"}


def wrap(foreign: str, style: Style, look: str = "", lead: Text | None = None) -> Iterator[Text]:
    """A paragraph with a hanging indent as wide as `lead`."""
    first = lead or Text()
    hang = first.cell_len if first.cell_len <= style.width // 3 else 2
    for number, words in enumerate(broken_lines(clean(foreign, style), style, first.cell_len, hang)):
        line = Text(words, style=look)
        yield Text.assemble(first, line) if number == 0 else Text.assemble(" " * hang, line)


def broken_lines(prose: str, style: Style, first: int, hang: int) -> list[str]:
    """`prose` broken at spaces; a word longer than a line is broken where it must be."""
    width = min(style.width, TEXT_WIDTH)
    lines, room = [""], width - first
    for word in prose.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
            room = width - hang
        while cell_len(word) > room:
            piece = chop_cells(word, max(1, room))[0]
            part = max(piece.rfind("."), piece.rfind("/")) + 1
            piece = piece[:part] if part > len(piece) // 2 else piece  # behind a part of a name, where one ends
            lines[-1], word = piece, word[len(piece) :]
            lines.append("")
            room = width - hang
        lines[-1] = word
    return [line.replace(GLUE, " ").rstrip() for line in lines]


def glued(shown: str, unit: Unit) -> str:
    """A number that no line break parts from its unit."""
    return shown.replace(" ", GLUE) if unit in NUMERIC else shown


_ASCII_FOR = str.maketrans({"µ": "u", "…": "...", **dict(zip(BAR_HEIGHTS, "_.:-=+*#", strict=True))})
"""For terminals that have ASCII alone."""


def clean(foreign: str, style: Style) -> str:
    shown = printable(foreign)
    return shown if style.unicode else shown.translate(_ASCII_FOR)


def dots_of(style: Style) -> str:
    """What stands for text that is left out."""
    return "…" if style.unicode else "..."


def shorten(name: str, width: int, dots: str) -> str:
    """`name` cut in the middle to `width` cells, the cut shown by `dots`."""
    if cell_len(name) <= width:
        return name
    if width <= len(dots):
        return dots[: max(0, width)]
    head, tail = (width - len(dots) + 1) // 2, (width - len(dots)) // 2
    while head + tail:
        cut = f"{name[:head]}{dots}{name[-tail:] if tail else ''}"
        if cell_len(cut) <= width:
            return cut
        head, tail = (head - 1, tail) if head > tail else (head, tail - 1)  # wide characters take two cells
    return dots


def pad(line: Text, width: int, right: bool = False) -> Text:
    blank = " " * max(0, width - line.cell_len)
    return Text.assemble(blank, line) if right else Text.assemble(line, blank)
