"""A question loads the modules that answer it, and few others."""

from __future__ import annotations

import subprocess
import sys

MAX_MODULES = 80


def test_a_plain_count_loads_few_modules() -> None:
    code = (
        "import sys; from modelprobe.cli.app import main; main(['flops', 'resnet50', '--format', 'json']); "
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] == 'modelprobe'), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert len(loaded) <= MAX_MODULES, loaded
    assert not [name for name in loaded if ".backward" in name or ".conventions." in name or ".other_tools" in name]
