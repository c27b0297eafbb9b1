"""What a report looks like in each format, kept as texts that a person has read."""

import pytest

from modelprobe.report.formats import RENDERERS, Style, register
from tests.report.reports import sample


@pytest.mark.parametrize("width", [160, 80, 60, 40, 20])
def test_terminal(golden, width):
    golden(f"sample.{width}.txt", RENDERERS["terminal"].render(sample(), Style(width)))


def test_terminal_in_ascii(golden):
    text = RENDERERS["terminal"].render(sample(), Style(80, unicode=False))
    assert text.isascii()
    golden("sample.ascii.txt", text)


@pytest.mark.parametrize(("name", "suffix"), [("json", "json"), ("csv", "csv"), ("markdown", "md")])
def test_other_formats(golden, name, suffix):
    golden(f"sample.{suffix}", RENDERERS[name].render(sample(), Style()))


def test_html_body(golden):
    text = RENDERERS["html"].render(sample(), Style())
    golden("sample.body.html", text[text.index("<article") : text.index("</article>")] + "</article>\n")


@pytest.mark.parametrize(("name", "suffix"), [("json", ".new"), ("new", ".json")])
def test_registering_twice_raises(name, suffix):
    with pytest.raises(ValueError, match="registered already"):
        register(name, (suffix,), "nowhere")
    assert "new" not in RENDERERS
