"""The summary of a weight file, which `modelprobe summary` gives when its target is one. Torch is not imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelprobe import output
from modelprobe.errors import CheckFailed


def summarize_file(
    path: str,
    depth: int | None,
    all_tensors: bool,
    branch: str | None,
    format: str | None,
    out: Path | None,
    force: bool,
    strict: bool,
) -> None:
    """Read the file's headers, report, and raise CheckFailed (exit code 1) when the file is damaged."""
    from modelprobe.analyzers.env import brief
    from modelprobe.analyzers.weights import summarize_weights
    from modelprobe.checkpoints.reader import open_checkpoint

    spelled = path if path.startswith(("http://", "https://")) else str(Path(path).expanduser())
    result = summarize_weights(open_checkpoint(spelled), depth, all_tensors, branch)
    output.emit(replace(result.report(), env=brief()), format, out, force=force, strict=strict)
    if result.damaged:
        raise CheckFailed(f"{path} is damaged or forged", "what is wrong stands in the report; fetch the file again")
