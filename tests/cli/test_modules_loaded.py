"""A question loads the modules that answer it, and few others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAX_MODULES = 80
MAX_MODULES_OF_AN_ANSWER = 12


def loaded_modules(folder: Path) -> list[str]:
    """Our modules after a count, whose run is kept in `folder`."""
    code = (
        "import sys; sys.argv[1:] = ['flops', 'resnet50', '--format', 'json']; "
        "from modelprobe.__main__ import start; start(); "
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('modelprobe', 'torch', 'typer')))"
    )
    environment = {**os.environ, "MODELPROBE_STORE": "1", "MODELPROBE_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return [name for name in done.stdout.splitlines()[-1].split() if name != "modelprobe.__main__"]


@pytest.mark.zoo
def test_a_plain_count_loads_few_modules_and_its_repetition_fewer(tmp_path: Path) -> None:
    first = [name for name in loaded_modules(tmp_path) if name.startswith("modelprobe")]
    assert len(first) <= MAX_MODULES, first
    assert not [name for name in first if ".backward" in name or ".conventions." in name or ".other_tools" in name]
    second = loaded_modules(tmp_path)
    assert len(second) <= MAX_MODULES_OF_AN_ANSWER, second
    assert not {"torch", "typer", "modelprobe.cli.app"} & set(second)
