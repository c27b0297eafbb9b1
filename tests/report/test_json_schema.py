"""The schemas of what `-f json` prints: one for each name, sound, and every golden JSON keeps to its own."""

from __future__ import annotations

import copy
import json
import re

import jsonschema
import pytest

from modelprobe.cli.commands.other.schema import NAMES, json_schema
from tests.command_line import CommandLine
from tests.conftest import GOLDEN
from tests.samples import ROOT

NOT_REPORTS = {"modelprobe.folder/1", "modelprobe.peaks/1", "modelprobe.baseline/1", "modelprobe.guide/1"}
"""Names in files of our own, and the list of chapters."""


LEFT_OUT = re.compile(r"'(env|environment|storage)' is a required property")
"""What goldens do not hold: versions, and addresses."""


def test_every_name_has_a_schema():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "modelprobe").rglob("*.py"))
    assert set(re.findall(r'"(modelprobe\.[a-z_.-]+/\d+)"', source)) - NOT_REPORTS == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_schema(name):
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(body for body in schema["$defs"].values())


@pytest.mark.zoo
def test_every_golden_keeps_to_its_schema():
    validators = {}
    for path in sorted((GOLDEN / "json").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        name = found["schema"]
        if name not in validators:
            validators[name] = jsonschema.Draft202012Validator(json_schema(name))
        wrong = [
            f"{path.name}: {'/'.join(map(str, e.path))}: {e.message[:200]}" for e in validators[name].iter_errors(found)
        ]
        assert not [text for text in wrong if not LEFT_OUT.search(text)]


def test_a_wrong_value_is_found():
    found = json.loads((GOLDEN / "json" / "flops.cnn.json").read_text(encoding="utf-8"))
    found["env"] = {}
    validator = jsonschema.Draft202012Validator(json_schema("modelprobe.flops/1"))
    assert validator.is_valid(found)
    for change in ({"macs": "many"}, {"rows": [{}]}, {"schema": "modelprobe.flops/0"}, {"by": 3}):
        assert not validator.is_valid({**copy.deepcopy(found), **change})


def test_the_command(capsys):
    cli = CommandLine(capsys)
    assert "modelprobe.scan/3" in cli("schema").out.splitlines()
    assert cli("schema", "scan").out == cli("schema", "modelprobe.scan/3").out
    assert json.loads(cli("schema", "scan").out)["properties"]["schema"] == {"const": "modelprobe.scan/3"}
    answer = cli("schema", "convrt")
    assert answer.code == 2
    assert "did you mean convert?" in answer.err
