"""The layout stays as it is meant to be: names that mean one thing, folders that a person overlooks."""

from __future__ import annotations

import pytest

from tests.house import House, survey

SHARE = 0.01
"""Of top-level names that may stand in two or more files; captum and rich have as many."""


@pytest.fixture(scope="module")
def house() -> House:
    return survey()


def test_names_mean_one_thing(house: House) -> None:
    share = len(house.twice) / len(house.names)
    assert share <= SHARE, "\n".join(f"{name}: {', '.join(files)}" for name, files in house.twice.items())


def test_folders_are_small(house: House) -> None:
    assert not {folder: count for folder, count in house.entries.items() if count > 20}


def test_files_and_functions_hold_one_subject(house: House) -> None:
    """A sign, not a rule: what is over has its reason here."""
    files = {file for file, lines in house.lines.items() if lines > 400}
    functions = {name for name, lines in house.functions.items() if lines > 50}
    assert (files, functions) == (set(), set())
