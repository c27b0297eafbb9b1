"""The networks of `samples/models.py`, imported by the tests from where users find them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

ROOT = Path(__file__).resolve().parent.parent


def bring_samples(place: Path) -> None:
    """Put `samples/` there: what imports it meanwhile may leave compiled files in the repository's own."""
    copytree(ROOT / "samples", place / "samples", ignore=ignore_patterns("__pycache__"))


_spec = importlib.util.spec_from_file_location("samples_models", ROOT / "samples" / "models.py")
assert _spec is not None
assert _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = models
_spec.loader.exec_module(models)
