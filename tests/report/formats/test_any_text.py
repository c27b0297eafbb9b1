"""Whatever text stands in a report: nothing reaches a terminal or a browser as a command, and programs read it back."""

import csv
import io
import json
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from modelprobe.report.blocks import Column, Report, Row, Table
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.report.formats.html import fragment
from modelprobe.report.units import Unit
from tests.report.reports import ANY_TEXT, reports

FEW = settings(max_examples=60, deadline=None)


def controls(text):
    """The characters that a terminal or a browser might act on."""
    return {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and c != "\n"}


@pytest.mark.zoo
@FEW
@given(reports(), st.integers(20, 200), st.booleans())
def test_terminal_keeps_its_width(report, width, unicode):
    for line in RENDERERS["terminal"].render(report, Style(width, unicode=unicode)).split("\n"):
        assert cell_len(line) <= width
        assert line == line.rstrip(" ")
        assert not controls(line)


@pytest.mark.zoo
@FEW
@given(reports(), st.integers(20, 200))
def test_colour_adds_nothing_but_colour(report, width):
    plain = RENDERERS["terminal"].render(report, Style(width))
    coloured = RENDERERS["terminal"].render(report, Style(width, colour=True))
    assert Text.from_ansi(coloured).plain.rstrip("\n") == Text.from_ansi(plain).plain.rstrip("\n")


@pytest.mark.zoo
@FEW
@given(reports())
def test_markdown_and_html_hold_no_control_characters(report):
    assert not controls(RENDERERS["markdown"].render(report, Style()))
    assert not controls(RENDERERS["html"].render(report, Style()))


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.scripts, self.handlers = [], 0, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name in ("href", "action")]
        if tag not in ("meta", "input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.zoo
@FEW
@given(reports())
def test_html_is_balanced_and_has_one_script(report):
    page, part = _Tags(RENDERERS["html"].render(report, Style())), _Tags(fragment(report))
    assert (page.open, page.scripts, page.handlers) == ([], 1, [])
    assert (part.open, part.scripts, part.handlers) == ([], 0, [])


@pytest.mark.zoo
@FEW
@given(reports())
def test_json_parses(report):
    text = RENDERERS["json"].render(report, Style())
    assert text.isascii()
    assert not controls(text)
    read = json.loads(text, parse_constant=lambda name: 1 / 0)  # NaN and Infinity are not JSON
    assert [note["text"] for note in read["notes"]] == [note.text for note in report.notes]


@FEW
@given(st.lists(st.tuples(ANY_TEXT, st.integers(), st.floats(allow_nan=False)), max_size=5))
def test_csv_reads_back(rows):
    columns = (Column("name", "Name"), Column("n", "N", Unit.COUNT), Column("x", "X", Unit.RATIO))
    report = Report("t", "s/1", (Table(columns, tuple(Row(row) for row in rows)),))
    read = list(csv.reader(io.StringIO(RENDERERS["csv"].render(report, Style()))))
    assert read[0] == ["name", "n", "x"]
    assert [(int(n), float(x)) for _, n, x in read[1:]] == [(n, x) for _, n, x in rows]
    assert not any(name.startswith(("=", "+", "-", "@")) for name, _, _ in read[1:])
