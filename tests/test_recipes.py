"""The recipes of the guide work: each is followed to the letter in a copy of the package, and its own tests pass there.

A recipe is a section of `architecture.md` that begins with "To add". Its fenced blocks say what to do with a file:

    ```python file=PATH      write it
    ```python append=PATH    append to it
    ```diff file=PATH        the lines with a blank or `-` in front stand in it, once; in their place come those with
                             a blank or `+`
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from modelprobe.guide import chapters
from tests.samples import ROOT

SECTION = re.compile(r"^### (?P<title>To add .*?)\n(?P<body>.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(
    r"^```(?P<language>python|diff) (?P<what>file|append)=(?P<path>\S+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
STAND_IN = "def count(model, *inputs):\n    return sum(p.numel() for p in model.parameters())\n"
"""The package that the recipe of a tool speaks of."""


class Edit(NamedTuple):
    """One fenced block of a recipe."""

    language: str
    what: str
    path: str
    body: str


def recipes() -> dict[str, list[Edit]]:
    text = chapters()["architecture"].read_text(encoding="utf-8")
    return {m["title"]: [Edit(*b.groups()) for b in BLOCK.finditer(m["body"])] for m in SECTION.finditer(text)}


def follow(edit: Edit, root: Path) -> None:
    path = root / edit.path
    if edit.language == "diff":
        lines = edit.body.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-"))
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "+"))
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{edit.path} has these lines {text.count(before)} times:\n{before}"
        path.write_text(text.replace(before, after), encoding="utf-8")
    elif edit.what == "append":
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{edit.body}", encoding="utf-8")
    else:
        assert not path.exists(), f"{edit.path} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(edit.body, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with every recipe followed, and their tests."""
    root = tmp_path_factory.mktemp("recipes")
    shutil.copytree(ROOT / "modelprobe", root / "modelprobe", ignore=shutil.ignore_patterns("__pycache__"))
    for edits in recipes().values():
        for edit in edits:
            follow(edit, root)
    (root / "simplecount.py").write_text(STAND_IN, encoding="utf-8")
    return root


def own_tests(edits: list[Edit]) -> Iterator[str]:
    return (edit.path for edit in edits if edit.path.startswith("tests/"))


def test_every_recipe_has_steps_and_a_test() -> None:
    found = recipes()
    assert len(found) >= 8
    for title, edits in found.items():
        assert any(edit.path.startswith("modelprobe/") for edit in edits), title
        assert list(own_tests(edits)), title
        assert all(edit.path in text_around(title) for edit in edits), f"{title}: a path stands in a fence alone"


def text_around(title: str) -> str:
    """What a person sees of a recipe: its text without the fences, whose info is not rendered."""
    text = chapters()["architecture"].read_text(encoding="utf-8")
    body = next(match["body"] for match in SECTION.finditer(text) if match["title"] == title)
    return re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.zoo
def test_what_the_recipes_add_works(copy: Path) -> None:
    """In one process, whose modelprobe is the copy."""
    paths = [path for edits in recipes().values() for path in own_tests(edits)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(copy), *paths]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert f"{len(paths)} passed" in done.stdout
