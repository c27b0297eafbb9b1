"""The answer of `scan` as SARIF 2.1.0, which code scanners of GitHub, GitLab and Azure take.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelprobe._version import __version__
from modelprobe.checkpoint.answers.scan import Import, ScanProblem, ScanResult
from modelprobe.checkpoint.pickle.globals import Trust

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Trust.DANGEROUS: "error", Trust.SUSPICIOUS: "warning", Trust.UNKNOWN: "note", Trust.HARMLESS: "none"}
WHOLE_FILE = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
"""A binary file has no lines; GitHub shows no result without one."""

SARIF_RULES = {
    "dangerous": "Loading the file can run commands or code, unpickle without bounds, connect or write",
    "suspicious": "The file calls, or holds, what no weight file needs",
    "unknown": "The file names a class of another package, whose code loading runs",
    "not-read": "The file, or a part of it, was not read: nothing is said of it",
}


def sarif(result: ScanResult) -> str:
    """The document: one result for each name that is not harmless and each part that was not read."""
    rules = [
        {"id": name, "name": f"{name.title().replace('-', '')}Content", "shortDescription": {"text": text}}
        for name, text in SARIF_RULES.items()
    ]
    driver = {"name": "modelprobe", "version": __version__, "semanticVersion": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": list(_sarif_results(result))}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _sarif_results(result: ScanResult) -> Iterator[dict[str, Any]]:
    for found in result.imports:
        if found.trust is not Trust.HARMLESS:
            what = f": {found.reason}" if found.reason else ""
            called = "calls" if found.called else "names"
            text = f"{called} {found.name}{what}"
            yield _sarif_result(found.trust.value, found, text) | _suppressed(result, found)
    for problem in result.problems:
        rule = "not-read" if problem.unread else problem.trust.value
        if rule in SARIF_RULES:
            yield _sarif_result(rule, problem, problem.text) | _suppressed(result, problem)


def _suppressed(result: ScanResult, found: Import | ScanProblem) -> dict[str, Any]:
    """What a policy accepts is suppressed; with a policy, an empty list says of the others that they are not."""
    if result.policy is None:
        return {}
    accepted = {"kind": "external", "status": "accepted", "justification": found.accepted}
    return {"suppressions": [accepted] if found.accepted else []}


def _sarif_result(rule: str, found: Import | ScanProblem, text: str) -> dict[str, Any]:
    where = found.where
    artifact = {"uri": quote(Path(found.file).as_posix())}
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": artifact, "region": WHOLE_FILE}}
    if where:
        place["logicalLocations"] = [{"fullyQualifiedName": where}]
    return {
        "ruleId": rule,
        "ruleIndex": list(SARIF_RULES).index(rule),
        "level": LEVELS[found.trust],
        "message": {"text": f"{text} ({where})" if where else text},
        "locations": [place],
    }
