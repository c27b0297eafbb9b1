"""The guide: one Markdown file for each chapter. `modelprobe guide` shows them; tests run every example in them."""

from __future__ import annotations

from pathlib import Path

ORDER = (
    "cost",
    "graph",
    "training-and-scaling",
    "other-tools",
    "weight-files",
    "repairs",
    "vision",
    "inside-a-run",
    "many-models",
    "targets-and-inputs",
    "python",
    "accuracy",
    "architecture",
)


def chapters() -> dict[str, Path]:
    """Name -> file of every chapter, in reading order."""
    return {name: Path(__file__).with_name(f"{name}.md") for name in ORDER}
