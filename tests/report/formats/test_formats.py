"""The details of single formats."""

import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path

import pytest

from modelprobe.report.blocks import Column, Fact, Facts, Figure, Note, Report, Row, Table
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.report.formats.columns import LINE_GUIDES, ColumnLayout, ColumnNeeds, fit_columns, tree_prefixes
from modelprobe.report.formats.html import fragment
from modelprobe.report.units import Unit
from tests.report.reports import sample


def one_table(*rows, columns=None, **more):
    columns = columns or (Column("name", "Name"), Column("n", "N", Unit.COUNT))
    return Report("t", "s/1", (Table(columns, tuple(rows), **more),))


def lines(report, width=80, **style):
    return RENDERERS["terminal"].render(report, Style(width, **style)).split("\n")


def test_tree_prefixes():
    # root / a / b / c  with d after b's subtree, then e the last child of the root
    assert tree_prefixes([0, 1, 2, 3, 2, 1], LINE_GUIDES) == ["", "├─ ", "│  ├─ ", "│  │  └─ ", "│  └─ ", "└─ "]


def test_tree_prefixes_of_several_roots_and_skipped_levels():
    assert tree_prefixes([0, 2, 0, 1], LINE_GUIDES) == ["", "   └─ ", "", "└─ "]


def test_columns_give_way_by_priority_and_never_number_0():
    wants = [ColumnNeeds(10, 10, 0), ColumnNeeds(10, 10, 2), ColumnNeeds(10, 10, 1), ColumnNeeds(10, 10, 0)]
    assert fit_columns(wants, 46) == ColumnLayout((0, 1, 2, 3), (10, 10, 10, 10))  # 4 x 10 + 3 gaps of 2 = 46
    assert fit_columns(wants, 45) == ColumnLayout((0, 2, 3), (10, 10, 10))
    assert fit_columns(wants, 33) == ColumnLayout((0, 3), (10, 10))
    assert fit_columns(wants, 21) is None


def test_what_was_hidden_is_said():
    text = "\n".join(lines(sample(), 40))
    assert "hidden: Class, Output shape, Parameters" in text.replace("\n", " ")
    assert "hidden" not in "\n".join(lines(sample(), 160))


def test_numbers_are_aligned_to_the_right():
    shown = lines(one_table(Row(("a", 5)), Row(("b", 1_234_567))))
    assert shown[4:6] == ["a             5", "b     1,234,567"]


def test_units_stand_under_each_other():
    columns = (Column("name", "Name"), Column("c", "Cost", Unit.MACS))
    shown = lines(one_table(Row(("a", 118_000_000)), Row(("b", 40_890_000_000)), Row(("c", 7)), columns=columns))
    assert shown[2].endswith("Cost (MACs)")
    assert shown[4:7] == ["a         118.0 M", "b         40.89 G", "c             7"]


def test_the_first_column_is_cut_in_the_middle_and_keeps_its_mark():
    shown = lines(one_table(Row(("backbone_" * 9 + "conv", 5), mark="reused")), 40)
    assert re.fullmatch(r"backbone_\S*…\S*conv reused +5", shown[4])
    assert len(shown[4]) == 40


def test_guides_are_whole_where_the_column_has_room():
    shown = lines(one_table(Row(("net", 1)), Row(("a", 1), 1), Row(("b", 1), 2), Row(("c", 1), 1), tree=True))
    assert shown[4:8] == ["net      1", "├─ a     1", "│  └─ b  1", "└─ c     1"]


def test_no_numbers_are_wrapped_even_at_20():
    columns = tuple(Column(f"c{i}", f"Count {i}", Unit.COUNT) for i in range(4))
    report = Report("t", "s/1", (Table((Column("n", "Name"), *columns), (Row(("conv", *[12_345_678] * 4)),)),))
    assert "  Count 3:" in "\n".join(lines(report, 20)).replace("\n  12", " 12")
    assert "\n".join(lines(report, 20)).count("12,345,678") == 4


def test_marks_guides_and_quiet_rows_are_dim():
    text = RENDERERS["terminal"].render(sample(), Style(100, colour=True))
    assert "\x1b[2m├─ \x1b[0mlayer1" in text
    assert "\x1b[2mfc\x1b[0m\x1b[2m never ran" in text


def test_markup_of_others_is_text():
    assert "[bold]x[/bold] :smile:" in "\n".join(lines(one_table(Row(("[bold]x[/bold] :smile:", 1)))))


def test_a_share_that_is_not_nothing_shows_a_stroke():
    columns = (Column("name", "Name"), Column("s", "Share", Unit.SHARE, bar=True))
    shown = lines(one_table(Row(("a", 1e-9)), Row(("b", 0.0)), Row(("c", 1.0)), columns=columns))
    assert [line.split("%")[1].strip() for line in shown[4:7]] == ["▏", "", "█" * 20]


def test_an_empty_table_says_so():
    assert "(no rows)" in lines(one_table())


def test_notes_come_last_with_a_hanging_indent():
    report = Report("t", "s/1", (Note("word " * 30), Facts((Fact("a", 1, Unit.COUNT),))))
    shown = lines(report, 40)
    assert shown[4].startswith("note: word")
    assert shown[5].startswith("      word")


def test_json_keeps_the_report_around_the_data():
    report = Report("t", "s/1", (Note("n"),), {"b": float("nan"), "a": [float("inf")]}, {"torch": "2"})
    read = json.loads(RENDERERS["json"].render(report, Style()))
    assert list(read) == ["schema", "title", "b", "a", "env", "notes"]
    assert (read["b"], read["a"]) == (None, [None])


def test_json_refuses_nothing_and_hides_nothing_when_the_data_have_an_env():
    report = Report("t", "s/1", (), {"env": {"torch": "2"}})
    assert json.loads(RENDERERS["json"].render(report, Style()))["env"] == {"torch": "2"}


def test_csv_has_raw_values_depth_and_mark():
    read = list(csv.DictReader(io.StringIO(RENDERERS["csv"].render(sample(), Style()))))
    assert read[0]["macs"] == "4089184256"
    assert (read[1]["depth"], read[1]["module"], read[1]["output"]) == ("1", "conv1", "1x64x112x112")
    assert read[-1]["mark"] == "never ran"
    assert len(read) == 8  # no footer: a sum among the rows would be summed again


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_csv_names_are_no_formulas(name):
    assert RENDERERS["csv"].render(one_table(Row((name, -5))), Style()).split("\n")[1] == f"'{name},-5"


def test_csv_of_a_report_without_tables_has_its_facts():
    report = Report("t", "s/1", (Facts((Fact("MACs", 1_000_000, Unit.MACS),)),))
    assert RENDERERS["csv"].render(report, Style()) == "fact,value,detail\nMACs,1000000,\n"


def test_markdown_shows_foreign_text_as_it_is():
    text = RENDERERS["markdown"].render(
        one_table(Row(("a|b <script> @me _x_ num_batches https://e.example", 1))), Style()
    )
    assert r"a\|b &lt;script&gt; &#64;me \_x\_ num_batches https\://e.example" in text


def test_html_policy_names_its_script_and_nothing_is_fetched():
    text = RENDERERS["html"].render(sample(), Style())
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert not re.search(r"(src|href)=|url\(|@import|https?:", text.replace(script, ""))


def test_html_numbers_carry_the_exact_integer():
    assert 'title="4089184256">4.089 G' in RENDERERS["html"].render(sample(), Style())


def test_html_embeds_pictures_and_survives_their_absence(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    there, gone = Figure(picture, "a <cat>"), Figure(tmp_path / "b.png")
    text = RENDERERS["html"].render(Report("t", "s/1", (there, gone)), Style())
    assert 'src="data:image/png;base64,iVBORw=="' in text
    assert "a &lt;cat&gt;" in text
    assert "b.png (not embedded)" in text


def test_a_fragment_is_scoped():
    text = fragment(sample())
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    flat = re.sub(r"@media[^{]*\{", "", style)
    for selectors in re.findall(r"([^{}]+)\{", flat):
        assert all(part.strip().startswith(".mp") for part in selectors.split(",")), selectors
    assert "<html" not in text
    assert "<script" not in text


def preview(width=6):
    rows = [tuple((40 * x, 40 * y, 128) for x in range(width)) for y in range(6)]
    return tuple(rows)


def test_previews_stand_side_by_side_with_colours_or_shades():
    figures = tuple(Figure(Path(f"out/{n}.png"), f"layer{n}", preview()) for n in range(3))
    report = Report("Pictures", "modelprobe.any/1", figures)
    plain = RENDERERS["terminal"].render(report, Style(width=40)).splitlines()
    assert plain[2] == "layer0        layer1        layer2"
    assert len(set(plain[3])) > 1
    assert set(plain[3]) <= set(" ░▒▓█")
    assert plain[-3:] == ["layer0: out/0.png", "layer1: out/1.png", "layer2: out/2.png"]
    assert all(len(line) <= 20 for line in RENDERERS["terminal"].render(report, Style(width=20)).splitlines())
    coloured = RENDERERS["terminal"].render(report, Style(width=40, colour=True))
    assert coloured.count("▀") == 3 * 3 * 6
    assert "\x1b[38;5;" in coloured
    assert RENDERERS["terminal"].render(report, Style(width=40, unicode=False)).isascii()


@pytest.mark.parametrize("format", ["terminal", "html", "markdown", "json", "csv"])
def test_a_figure_that_was_not_written(format):
    report = Report("Pictures", "modelprobe.any/1", (Figure(None, "layer1", preview()),))
    assert "None" not in RENDERERS[format].render(report, Style())
