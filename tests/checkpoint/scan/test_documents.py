"""SARIF and CycloneDX: the fields that their readers require, on the command line and as files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.checkpoint.payloads import text
from tests.command_line import CommandLine


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2, 3)}, "good one.pth")
    Path("bad.pkl").write_bytes(b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R.")
    Path("page.bin").write_text("<!DOCTYPE html><html></html>")
    return CommandLine(capsys)


@pytest.mark.zoo
def test_sarif(cli: CommandLine) -> None:
    answer = cli("scan", ".", "-f", "sarif")
    assert answer.code == 1
    document = json.loads(answer.out)
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    found = {
        one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]: (one["ruleId"], one["level"])
        for one in run["results"]
    }
    assert found == {"bad.pkl": ("dangerous", "error"), "page.bin": ("not-read", "note")}
    for one in run["results"]:
        assert rules[one["ruleIndex"]] == one["ruleId"]
        assert one["message"]["text"]
        assert one["locations"][0]["physicalLocation"]["region"]["startLine"] == 1  # or GitHub shows nothing
    clean = cli("scan", "good one.pth", "-f", "sarif", "-o", "out.sarif")
    assert clean.code == 0
    assert json.loads(Path("out.sarif").read_text())["runs"][0]["results"] == []
    assert cli("scan", "good one.pth", "-f", "sarif", "-o", "out.sarif").code == 2  # it is there already


@pytest.mark.zoo
def test_cyclonedx(cli: CommandLine) -> None:
    answer = cli("scan", ".", "-f", "cyclonedx", "--fail-on", "dangerous")
    assert answer.code == 1
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(answer.out) is None
    parts = {one["name"]: one for one in json.loads(answer.out)["components"]}
    assert set(parts) == {"bad.pkl", "good one.pth", "page.bin"}
    good = parts["good one.pth"]
    told = {one["name"]: one["value"] for one in good["properties"]}
    assert (good["type"], told["modelprobe:parameters"], told["modelprobe:dtypes"]) == (
        "machine-learning-model", "6", "float32",
    )  # fmt: skip
    assert good["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(Path("good one.pth").read_bytes()).hexdigest()}
    ]
    verdicts = {name: one["properties"][1]["value"] for name, one in parts.items()}
    assert verdicts == {"bad.pkl": "dangerous", "good one.pth": "harmless", "page.bin": "unknown"}


@pytest.mark.zoo
def test_the_network_is_in_the_bill_where_it_is_known(cli: CommandLine) -> None:
    torch.save(timm.create_model("resnet10t", num_classes=7).state_dict(), "net.pth")
    answer = cli("scan", "net.pth", "good one.pth", "-f", "cyclonedx")
    assert answer.code == 0
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(answer.out) is None
    net, other = json.loads(answer.out)["components"]
    assert net["modelCard"] == {"modelParameters": {"modelArchitecture": "timm:resnet10t"}}
    told = {one["name"].removeprefix("modelprobe:"): one["value"] for one in net["properties"]}
    assert (told["network:verdict"], told["network:differences"]) == ("certain", "head of 7 classes instead of 1,000")
    model = timm.create_model("resnet10t", num_classes=7)
    assert int(told["parameters"]) == sum(value.numel() for value in model.parameters())
    assert int(told["buffers"]) == sum(value.numel() for value in model.buffers())
    assert "modelCard" not in other


@pytest.mark.parametrize(("bar", "code"), [("dangerous", 0), ("suspicious", 0), ("unknown", 1)])
def test_what_fails(cli: CommandLine, bar: str, code: int) -> None:
    assert cli("scan", "page.bin", "good one.pth", "--fail-on", bar).code == code
    wrong = cli("scan", "page.bin", "--fail-on", "harmless")
    assert wrong.code == 2
    assert "choose one of dangerous, suspicious, unknown" in wrong.err
