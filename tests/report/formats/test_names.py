"""Names in a width: two that differ are never written alike, and what stays tells them apart."""

from __future__ import annotations

import re

import pytest

from modelprobe.report.blocks import Column, Report, Row, Table
from modelprobe.report.formats import RENDERERS, Style
from modelprobe.report.formats.names import fitted_names
from modelprobe.report.units import Unit

TENSORS = [
    f"backbone.stages.{stage}.blocks.{block}.{part}.projection.{kind}"
    for stage in range(3) for block in (0, 1, 11) for part in ("attention", "mlp") for kind in ("weight", "bias")
]  # fmt: skip


def lines_of(table: Table, width: int) -> list[str]:
    return RENDERERS["terminal"].render(Report("t", "s/1", (table,)), Style(width)).splitlines()


def named(names: list[str], **more: object) -> Table:
    columns = (
        Column("name", "Name"), Column("count", "Count", Unit.COUNT), Column("mean", "Mean", Unit.NUMBER, priority=1),
        Column("note", "A column of text", priority=2),
    )  # fmt: skip
    return Table(columns, tuple(Row((name, 1, 0.5, "some text")) for name in names), **more)


@pytest.mark.parametrize("room", [48, 40, 32, 26, 20])
def test_indices_stay_and_no_two_are_alike(room: int) -> None:
    shown, start = fitted_names(TENSORS, [room] * len(TENSORS), "…")
    assert start == ("" if room > 60 else "backbone.stages.")
    assert len(set(shown)) == len(TENSORS)
    assert all(len(text) <= room for text in shown)
    for name, text in zip(TENSORS, shown, strict=True):
        assert re.findall(r"\d+", text) == re.findall(r"\d+", name)
        assert text.endswith(name.rpartition(".")[2])


def test_names_that_fit_are_whole() -> None:
    assert fitted_names(["a.b", "a.c"], [3, 3], "…") == (("a.b", "a.c"), "")


def test_a_name_is_never_all_left_out() -> None:
    shown, start = fitted_names(["module.", "module.features.0.weight"], [10, 10], "…")
    assert start == ""
    assert shown[0] == "module."


@pytest.mark.parametrize("width", [100, 80, 60, 50])
def test_a_table_never_prints_two_names_alike(width: int) -> None:
    body = lines_of(named(TENSORS), width)[4 : 4 + len(TENSORS)]
    assert len({line.split("  ")[0] for line in body}) == len(TENSORS)


def test_what_cannot_be_told_apart_otherwise_takes_more_lines() -> None:
    names = [f"{'begin' * 12}.{middle}.{'end' * 12}" for middle in ("alpha", "gamma")]
    table = Table((Column("name", "Name"),), tuple(Row((name,)) for name in (*names, "short")))
    body = lines_of(table, 40)[4:]
    assert "".join(body) == f"{names[0]}{names[1]}short"


def test_a_column_gives_way_before_rows_look_alike() -> None:
    names = [f"{'b' * 24}{middle}{'e' * 24}" for middle in ("one", "two")]
    shown = lines_of(named(names), 74)
    assert shown[2].split() == ["Name", "Count", "Mean"]
    assert [line.split()[0] for line in shown[4:6]] == names


def test_rows_of_a_tree_are_told_apart_from_their_own_parents_children() -> None:
    rows = (Row(("net", 1)), *(Row((name, 1), depth) for name, depth in (("a", 1), ("0", 2), ("b", 1), ("0", 2))))
    table = Table((Column("name", "Name"), Column("count", "Count", Unit.COUNT)), rows, tree=True)
    assert [line.split()[-2] for line in lines_of(table, 80)[4:]] == ["net", "a", "0", "b", "0"]


def test_what_is_left_out_at_the_beginning_is_said() -> None:
    assert any("the first … in Name stands for backbone.stages." in line for line in lines_of(named(TENSORS), 80))
