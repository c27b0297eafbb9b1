"""Accepted findings: they are shown and do not count, until their last day; a malformed policy is refused whole."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.scan.policy import read_policy
from tests.checkpoint.scan.test_attacks import by_global
from tests.command_line import CommandLine

LATER, BEFORE = "2999-01-01", "2001-01-01"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/pairs.pkl").write_bytes(by_global("collections", "namedtuple", ("P", "x y")))
    Path("models/runs.pkl").write_bytes(by_global("os", "system", ("true",)))
    return CommandLine(capsys)


def entry(finding: str, expires: str = LATER, **more: str) -> str:
    fields = {"finding": finding, "reason": "read by Ada", **more}
    return "[[accept]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items()) + f"expires = {expires}\n"


def write(*entries: str) -> str:
    Path("policy.toml").write_text("".join(entries))
    return "policy.toml"


def test_an_accepted_finding_is_shown_and_does_not_count(cli: CommandLine) -> None:
    policy = write(entry("collections.name*", file="models/*.pkl"))
    assert cli("scan", "models/pairs.pkl").code == 1
    answer = cli("scan", "models/pairs.pkl", "--policy", policy)
    assert answer.code == 0
    assert "Accepted: collections.namedtuple: read by Ada (until 2999-01-01)" in answer.out
    assert cli("scan", "models", "--policy", policy).code == 1, "the other file counts"
    elsewhere = write(entry("collections.namedtuple", file="other/*.pkl"))
    answer = cli("scan", "models/pairs.pkl", "--policy", elsewhere)
    assert answer.code == 1
    assert "fits nothing that was found" in " ".join(answer.out.split())


def test_an_expired_entry_is_said_and_counts_again(cli: CommandLine) -> None:
    answer = cli("scan", "models/pairs.pkl", "--policy", write(entry("collections.namedtuple", BEFORE)))
    assert answer.code == 1
    assert "was accepted until 2001-01-01 (read by Ada). It counts again." in " ".join(answer.out.split())
    both = write(entry("collections.namedtuple", BEFORE), entry("collections.namedtuple"))
    assert cli("scan", "models/pairs.pkl", "--policy", both).code == 0


def test_the_last_day_counts(cli: CommandLine) -> None:
    path = write(entry("collections.namedtuple", "2030-06-15"))
    for day, trust in ((15, Trust.HARMLESS), (16, Trust.SUSPICIOUS)):
        found = scan("models/pairs.pkl", policy=read_policy(path, datetime.date(2030, 6, day)))
        assert found.worst is trust


def test_what_is_dangerous_is_accepted_in_known_bytes_alone(cli: CommandLine) -> None:
    digest = hashlib.sha256(Path("models/runs.pkl").read_bytes()).hexdigest()
    for refused in (
        entry("os.system"),
        entry("os.*", sha256=digest),
        entry("os.system", sha256="0" * 64),
        entry("os.system", file="models/runs.pkl"),
    ):
        assert cli("scan", "models/runs.pkl", "--policy", write(refused)).code == 1
    assert cli("scan", "models/runs.pkl", "--policy", write(entry("os.system", sha256=digest.upper()))).code == 0


def test_what_was_not_read_can_be_accepted(cli: CommandLine) -> None:
    Path("page.bin").write_text("<!DOCTYPE html><html></html>")
    assert cli("scan", "page.bin", "--fail-on", "unknown").code == 1
    assert cli("scan", "page.bin", "--fail-on", "unknown", "--policy", write(entry("*web page*"))).code == 0


def test_a_draft_counts_after_its_reasons_are_written(cli: CommandLine) -> None:
    assert cli("scan", "models", "-f", "policy", "-o", "draft.toml").code == 1
    refused = cli("scan", "models", "--policy", "draft.toml")
    assert refused.code == 2
    assert "entry 1 has no reason" in refused.err
    draft = Path("draft.toml").read_text()
    Path("draft.toml").write_text(draft.replace('reason = ""', 'reason = "looked at"'))
    assert cli("scan", "models", "--policy", "draft.toml", "--fail-on", "unknown").code == 0
    Path("models/runs.pkl").write_bytes(by_global("os", "system", ("false",)))
    assert cli("scan", "models", "--policy", "draft.toml").code == 1, "other bytes"


def test_sarif_suppresses_what_is_accepted(cli: CommandLine) -> None:
    policy = write(entry("collections.namedtuple"))
    answer = cli("scan", "models", "-f", "sarif", "--policy", policy)
    results = {
        one["message"]["text"].split(":")[0]: one["suppressions"]
        for one in json.loads(answer.out)["runs"][0]["results"]
    }
    assert results == {
        "calls os.system": [],
        "calls collections.namedtuple": [
            {"kind": "external", "status": "accepted", "justification": "read by Ada (until 2999-01-01)"}
        ],
    }


MALFORMED = {
    "[[accept": "cannot be read",
    "": "it has none",
    "accept = 3": "it has none",
    "x = 1\n" + entry("a"): "'x' beside them",
    "accept = [1]": "entry 1 is no table",
    entry("a") + entry("b", reazon="x"): "entry 2 has no key 'reazon'",
    '[[accept]]\nfinding = "a"\nreason = "b"': "has no last day",
    entry("a", '"soon"'): "'soon' is no date",
    entry("a", "2030-01-01T00:00:00"): "has no last day",
    entry("a", reason=" "): "has no reason",
    entry("  "): "has no finding",
    entry("*"): "accepts whatever is found",
    entry("a", sha256="12"): "not 64 hexadecimal digits",
    entry("a", file=""): "file is no path",
}


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: MALFORMED[text])
def test_a_malformed_policy_is_refused(cli: CommandLine, text: str) -> None:
    answer = cli("scan", "models/pairs.pkl", "--policy", write(text))
    assert answer.code == 2
    assert MALFORMED[text] in answer.err
    assert "hint" in answer.err


def test_a_missing_policy_is_refused(cli: CommandLine) -> None:
    assert cli("scan", "models/pairs.pkl", "--policy", "none.toml").code == 2
