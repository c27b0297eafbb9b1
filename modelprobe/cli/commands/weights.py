"""The summary of a weight file, which `modelprobe summary` gives when its target is one. Torch is not imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from modelprobe import console
from modelprobe.cli import output
from modelprobe.errors import CheckFailed


@dataclass(frozen=True, slots=True)
class FileSummaryOptions:
    """What to show of a weight file, as `summary` was asked."""

    depth: int | None = None
    all_tensors: bool = False
    branch: str | None = None
    stats: bool = False
    verify: bool = False


def summarize_file(
    path: str, view: FileSummaryOptions, format: str | None, out: Path | None, force: bool, strict: bool
) -> None:  # fmt: skip
    """Read the file's headers, report, and raise CheckFailed (exit code 1) when the file is damaged."""
    from modelprobe.checkpoint.answers.summary import summarize_weights
    from modelprobe.checkpoint.gc_off import gc_paused
    from modelprobe.checkpoint.open import open_checkpoint
    from modelprobe.environment import brief

    spelled = path if "://" in path else str(Path(path).expanduser())
    with gc_paused(), console.working(f"reading {path}"):
        found = open_checkpoint(spelled)
        result = summarize_weights(found, view.depth, view.all_tensors, view.branch, view.stats, view.verify)
    output.emit(replace(result.report(), env=brief()), format, out, force=force, strict=strict)
    if result.damaged:
        raise CheckFailed(f"{path} is damaged or forged", "what is wrong stands in the report; fetch the file again")
    if result.verification is not None and result.verification.failed:
        raise CheckFailed(f"{path} is not what its checksums say", "the report says where; fetch the file again")
