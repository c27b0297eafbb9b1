"""`modelprobe cache`: what is kept is listed, and removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelprobe.files.store import Store
from tests.command_line import CommandLine


def test_cache_lists_and_clears(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cli = CommandLine(capsys)
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path))
    empty = json.loads(cli("cache", "-f", "json").out)
    assert (empty["entries"], empty["nbytes"], empty["off"]) == ([], 0, True)
    for target in ("resnet18", "vit_b_16"):
        Store().put({"target": target}, {"what": "flops", "target": target}, b"run")
    listed = json.loads(cli("cache", "-f", "json").out)
    assert {entry["target"] for entry in listed["entries"]} == {"resnet18", "vit_b_16"}
    assert listed["nbytes"] == sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    assert "resnet18" in cli("cache").out
    assert json.loads(cli("cache", "clear", "-f", "json").out)["removed"] == 2
    assert json.loads(cli("cache", "-f", "json").out)["entries"] == []
    assert cli("cache", "empty").code == 2
