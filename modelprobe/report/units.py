"""Numbers, shapes and foreign text as a person reads them: units, scaling, escaping."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from enum import Enum
from typing import Any


class Unit(str, Enum):
    """What a raw value measures, and so how it is written."""

    TEXT = "text"
    COUNT = "count"  # exact, grouped: 25,557,032
    QUANTITY = "quantity"  # scaled by 1000: 25.56 M
    MACS = "MACs"
    FLOPS = "FLOPs"
    BYTES = "bytes"  # scaled by 1024: 97.49 MiB
    SHARE = "share"  # 0..1 as a percentage
    RATIO = "ratio"
    SECONDS = "seconds"
    SHAPE = "shape"
    YESNO = "yesno"
    NUMBER = "number"  # any real number, four significant digits: 0.02349
    HISTOGRAM = "histogram"  # counts in equal bins, as bars: ▁▃█▂


SCALED = {Unit.QUANTITY, Unit.MACS, Unit.FLOPS}
NUMERIC = SCALED | {Unit.COUNT, Unit.BYTES, Unit.SHARE, Unit.RATIO, Unit.SECONDS, Unit.NUMBER}
"""Units whose column is aligned to the right."""

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_IEC = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def text(value: Any, unit: Unit = Unit.TEXT) -> str:
    """`value` in `unit`, for a table cell (the unit's own name stands in the column's title). None is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    if unit in SCALED:
        return scaled(value)
    if unit is Unit.BYTES:
        return size(value)
    if unit is Unit.COUNT:
        return f"{value:,}"
    if unit is Unit.SHARE:
        return share(value)
    if unit is Unit.RATIO:
        return f"{value:.2f}"
    if unit is Unit.SECONDS:
        return seconds(value)
    if unit is Unit.SHAPE:
        return shape(value)
    if unit is Unit.NUMBER:
        return four_digits(value)
    if unit is Unit.HISTOGRAM:
        return bars(value)
    if unit is Unit.YESNO:
        return "yes" if value else "no"
    return printable(str(value))


def labelled(value: Any, unit: Unit) -> str:
    """`value` with the name of its unit, for running text: `4.089 GMACs`."""
    if unit in (Unit.MACS, Unit.FLOPS) and isinstance(value, (int, float)):
        return f"{scaled(value)}{unit.value}" if abs(value) >= 1000 else f"{value:,} {unit.value}"
    return text(value, unit)


def heading(title: str, unit: Unit) -> str:
    """A column's or fact's title with the name of its unit, where the values do not carry it: `Cost (MACs)`."""
    if unit in (Unit.MACS, Unit.FLOPS) and unit.value.lower() not in title.lower():
        return f"{title} ({unit.value})"
    return title


def scaled(value: float) -> str:
    """A count scaled by powers of 1000, four significant digits: `4.089 G`; below 1000 as it is."""
    for step, letter in _SI:
        if abs(value) >= step * 0.99995:
            return f"{_four(value / step)} {letter}"
    return f"{value:,}" if isinstance(value, int) else _four(value)


def exact_count(value: int) -> str:
    """A count in full, grouped, to stand beside its scaled form; empty where the two are the same."""
    return f"{value:,}" if abs(value) >= 1000 else ""


def first_few(names: Sequence[str], limit: int) -> str:
    """The first of `names`, and how many there are more: `a, b and 3 more`."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def size(value: float) -> str:
    """Bytes scaled by powers of 1024: `97.49 MiB`."""
    for step, name in _IEC:
        if abs(value) >= step * 0.99995:
            return f"{_four(value / step)} {name}"
    return f"{value:,} B"


def seconds(value: float) -> str:
    """A duration in the unit that suits it: `12.30 ms`."""
    for step, name in _TIME:
        if abs(value) >= step:
            return f"{_four(value / step)} {name}"
    return f"{_four(value / 1e-9)} ns" if value else "0 s"


def share(value: float) -> str:
    """A share from 0 to 1 as a percentage. What is not nothing is never written as `0.0%`."""
    if 0 < abs(value) < 0.0005:
        return "<0.1%"
    return f"{value:.1%}"


def four_digits(value: float) -> str:
    """Four significant digits: `0.1235`, `23,860`; an exponent only where there are more than nine places."""
    return f"{float(f'{value:.4g}'):,.0f}" if 9999.5 <= abs(value) < 1e9 else f"{value:.4g}"


def shape(value: Any) -> str:
    """A shape as `1x3x224x224`, a scalar as `scalar`, several shapes separated by commas."""
    if isinstance(value, str):
        return printable(value)
    if len(value) and not isinstance(value[0], int):
        return ", ".join(shape(item) for item in value)
    return "x".join(str(dim) for dim in value) if len(value) else "scalar"


BAR_HEIGHTS = "▁▂▃▄▅▆▇█"
"""The heights of a histogram; the lowest is an empty bin."""


def bars(counts: Any) -> str:
    """Counts as bars, the tallest for the largest; what is not nothing stands above the lowest."""
    most = max(counts, default=0)
    return "".join(BAR_HEIGHTS[-(-7 * count // most)] if count else BAR_HEIGHTS[0] for count in counts)


def _four(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    whole = len(str(int(abs(value))))
    return f"{value:,.{max(0, 4 - whole)}f}"


_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def printable(foreign: str, limit: int = 0) -> str:
    """Text from a file or a command line with everything that a terminal would act on made visible.

    Control characters, C1, bidi and zero-width marks and lone surrogates become `\\x1b`, `\\u202e`, ….
    With `limit`, a longer text is cut in the middle and the cut is shown.
    """
    if limit and len(foreign) > limit:
        half = max(1, (limit - 1) // 2)
        foreign = f"{foreign[:half]}…{foreign[-half:]}"
    if foreign.isascii() and foreign.isprintable():
        return foreign
    return "".join(_visible(character) for character in foreign)


def _visible(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return character.encode("unicode_escape").decode("ascii")
    return character
