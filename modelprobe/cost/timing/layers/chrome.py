"""The trace of torch's profiler as a file for Perfetto and Chrome: the last passes, every call of a module marked."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any


def chrome_trace(profiler: Any) -> bytes:
    """The JSON. Torch gives it once only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    found.pop("traceName", None)  # the temporary file's
    found.pop("host_name", None)
    return json.dumps(found, separators=(",", ":")).encode()
