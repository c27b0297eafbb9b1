"""Numbers and foreign text as a person reads them."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelprobe.report.units import Unit, first_few, heading, labelled, printable, text


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, Unit.COUNT, ""),
        (25_557_032, Unit.COUNT, "25,557,032"),
        (25_557_032, Unit.QUANTITY, "25.56 M"),
        (4_089_184_256, Unit.MACS, "4.089 G"),
        (999, Unit.MACS, "999"),
        (999_999, Unit.MACS, "1.000 M"),
        (102_228_128, Unit.BYTES, "97.49 MiB"),  # 102,228,128 / 1,048,576 = 97.492
        (512, Unit.BYTES, "512 B"),
        (0.25, Unit.SHARE, "25.0%"),
        (0.0001, Unit.SHARE, "<0.1%"),
        (0.0, Unit.SHARE, "0.0%"),
        (1.5, Unit.RATIO, "1.50"),
        (0.0123, Unit.SECONDS, "12.30 ms"),
        (0, Unit.SECONDS, "0 s"),
        ((1, 3, 224, 224), Unit.SHAPE, "1x3x224x224"),
        ((), Unit.SHAPE, "scalar"),
        (((1, 3), (2,)), Unit.SHAPE, "1x3, 2"),
        (True, Unit.YESNO, "yes"),
        (-0.023456, Unit.NUMBER, "-0.02346"),
        (1e-12, Unit.NUMBER, "1e-12"),
        (23_861.7, Unit.NUMBER, "23,860"),
        (9999.6, Unit.NUMBER, "10,000"),
        ((0, 1, 70, 35), Unit.HISTOGRAM, "▁▂█▅"),  # 1 of 70 is not nothing; 35 of 70 is ceil(3.5) of 7 steps
        ((), Unit.HISTOGRAM, ""),
        ("a\x1bb", Unit.TEXT, "a\\x1bb"),
        ("unknown", Unit.MACS, "unknown"),  # a word in place of a number stays a word
        (math.nan, Unit.SHARE, "nan%"),
    ],
)
def test_text(value, unit, shown):
    assert text(value, unit) == shown


def test_the_unit_is_named_where_no_column_names_it():
    assert labelled(4_089_184_256, Unit.MACS) == "4.089 GMACs"
    assert labelled(640, Unit.FLOPS) == "640 FLOPs"
    assert labelled("unknown", Unit.MACS) == "unknown"
    assert heading("Cost", Unit.MACS) == "Cost (MACs)"
    assert heading("MACs", Unit.MACS) == "MACs"


@pytest.mark.zoo
@given(st.text(st.characters()))
def test_printable_leaves_nothing_to_obey(foreign):
    shown = printable(foreign)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    shown.encode("utf-8")


def test_a_long_text_is_cut_in_the_middle():
    assert printable("a" * 50 + "b" * 50, limit=9) == "aaaa…bbbb"


def test_the_first_of_many_names() -> None:
    names = [f"n{i}" for i in range(1002)]
    assert first_few(names[:2], 2) == "n0, n1"
    assert first_few(names, 2) == "n0, n1 and 1,000 more"
