"""The GitHub Action and the hooks: their shell steps under bash, and the commands that they name."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from modelprobe.cli.app import main
from tests.samples import ROOT

STAND_IN = '#!/bin/bash\nprintf "%s\\n" "$@"\nexit 1\n'


def steps() -> list[str]:
    """The shell scripts of action.yml, in order."""
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    found = re.findall(r"^ +run: (?:\|\n((?: {8}.*\n)+)|(.+)\n)", text, re.MULTILINE)
    return [textwrap.dedent(block) or line for block, line in found]


@pytest.mark.parametrize(
    ("target", "arguments", "called"),
    [
        ("", "", ["check", "--github"]),
        ("net.py:my net", "", ["check", "net.py:my net", "--github"]),
        ("resnet50", "--max-gmacs 4.2  -f json", ["check", "resnet50", "--max-gmacs", "4.2", "-f", "json", "--github"]),
        ("$(touch bad)", "`touch bad` $HOME *", ["check", "$(touch bad)", "`touch", "bad`", "$HOME", "*", "--github"]),
    ],
)  # fmt: skip
def test_the_action_passes_its_inputs_on_and_its_exit_code(
    target: str, arguments: str, called: list[str], tmp_path: Path
) -> None:
    install, check = steps()
    assert install == 'pip install "$GITHUB_ACTION_PATH"'
    (tmp_path / "modelprobe").write_text(STAND_IN)
    (tmp_path / "modelprobe").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"TARGET": target, "ARGUMENTS": arguments}
    line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", check]  # as GitHub runs `shell: bash`
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines() == called, done.stderr
    assert done.returncode == 1
    assert not (tmp_path / "bad").exists()


def test_the_hooks_name_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"^ +entry: modelprobe (.+)$", text, re.MULTILINE)
    assert entries == ["check", "scan"]
    for entry in entries:
        assert main([*entry.split(), "--help"]) == 0
    pattern = re.search(r"^ +files: (.+)$", text, re.MULTILINE)
    assert pattern is not None
    assert [bool(re.search(pattern[1], name)) for name in ("a/b.pth", "x.safetensors", "net.py")] == [True, True, False]
    capsys.readouterr()
